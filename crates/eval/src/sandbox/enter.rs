//! From inside: a process puts walls around itself and becomes Python.

use super::{Confinement, DRIVER};
use formats::file;
use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getgid, getuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Most threads of a program.
const THREADS: u64 = 256;
/// Most open files.
const OPEN_FILES: u64 = 128;
/// What the folder that may be written to holds at most, where it can be made small.
const SCRATCH: &str = "size=64m,mode=700";

/// Kills a child's process group.
pub(super) fn kill_group(child: &Child) {
    let group = i32::try_from(child.id()).map(Pid::from_raw);
    _ = group.map(|group| killpg(group, Signal::SIGKILL)); // it may be gone already
}

/// Builds what `argument` (a [`Confinement`]) asks for around this process, and turns it into Python, which reads the
/// program from standard input. Returns only if that was not possible, with the exit code; the reason is on standard
/// output.
pub fn enter(argument: &str) -> i32 {
    let Ok(confinement) = serde_json::from_str::<Confinement>(argument) else { return 2 };
    let reason = match confine(confinement.clone()) {
        Ok(code) => return code,
        Err(reason) => reason,
    };
    let mut out = std::io::stdout();
    _ = write!(out, "{}{reason}", confinement.word).and_then(|()| out.flush());
    1
}

fn confine(mut confinement: Confinement) -> Result<i32, String> {
    // Whoever waits for this process may be killed: nothing must outlive it.
    set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("prctl: {error}"))?;
    if confinement.walls && !confinement.inside {
        confinement.inside = true;
        let again = std::env::current_exe().map_err(|error| error.to_string())?;
        confinement.namespaces = enter_namespaces(&confinement);
        if confinement.namespaces {
            // Only a child of this process is in the new namespace of processes, as their first: its end is that of all.
            let subcommand = std::env::args_os().nth(1).unwrap_or_default();
            let argument = serde_json::to_string(&confinement).map_err(|error| error.to_string())?;
            let status = Command::new(again).arg(subcommand).arg(argument).status();
            return status.map(|status| status.code().unwrap_or(1)).map_err(|error| error.to_string());
        }
    }
    set_limits(&confinement)?;
    if confinement.walls {
        restrict_files(&confinement)?;
        restrict_calls()?;
    }
    let error = Command::new(&confinement.python).args(["-I", "-c", DRIVER]).current_dir(&confinement.scratch).exec();
    Err(format!("{}: {error}", confinement.python.display()))
}

/// A user, network, processes, mounts, names and shared memory of its own; `false` where the system does not allow it.
fn enter_namespaces(confinement: &Confinement) -> bool {
    let (user, group) = (getuid(), getgid());
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if unshare(all).is_err() {
        return false;
    }
    // Nobody: becoming another program then gives up every right over the namespaces.
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("65534 {user} 1")),
        ("/proc/self/gid_map", format!("65534 {group} 1")),
    ];
    let none: Option<&str> = None;
    let hide = |path: &std::path::Path| {
        mount(none, path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(SCRATCH))
    };
    let write = |path: &str, text: &str| {
        file::open_update(path.as_ref()).is_ok_and(|mut to| to.write_all(text.as_bytes()).is_ok())
    };
    maps.iter().all(|(path, text)| write(path, text))
        && mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).is_ok()
        && hide(&confinement.scratch).is_ok()
        && hide("/proc".as_ref()).is_ok()
}

fn set_limits(confinement: &Confinement) -> Result<(), String> {
    let limits = &confinement.limits;
    let cpu = limits.seconds.ceil() as u64 + 2;
    let mut all = vec![
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_CPU, cpu),
        (Resource::RLIMIT_AS, limits.memory_bytes),
        (Resource::RLIMIT_FSIZE, limits.file_bytes),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
    ];
    if confinement.namespaces {
        all.push((Resource::RLIMIT_NPROC, THREADS)); // elsewhere the user's other processes would count
    }
    all.into_iter().try_for_each(|(resource, limit)| {
        setrlimit(resource, limit, limit).map_err(|error| format!("setrlimit {resource:?}: {error}"))
    })
}

/// No file but those that Python needs, and the folder for writing.
fn restrict_files(confinement: &Confinement) -> Result<(), String> {
    let build = || -> Result<RulesetStatus, landlock::RulesetError> {
        let own = [&confinement.scratch];
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .add_rules(path_beneath_rules(&confinement.readable, AccessFs::from_read(ABI::V5)))?
            .add_rules(path_beneath_rules(own, AccessFs::from_all(ABI::V5)))?
            .add_rules(path_beneath_rules(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?
            .restrict_self()?;
        Ok(status.ruleset)
    };
    match build() {
        Ok(RulesetStatus::NotEnforced) => Err("the kernel has no Landlock".into()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("Landlock: {error}")),
    }
}

/// No further process, no socket, no way to another process, no larger limits.
fn restrict_calls() -> Result<(), String> {
    let own = u64::from(std::process::id());
    let never = [
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_io_uring_setup,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_tkill,
        libc::SYS_setsid,
        libc::SYS_setpgid,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_memfd_create,
        libc::SYS_shmget,
        libc::SYS_mq_open,
        libc::SYS_setrlimit,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = never.into_iter().map(|call| (call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend([(libc::SYS_fork, Vec::new()), (libc::SYS_vfork, Vec::new())]);
    let when = |argument, compared, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, compared, value);
        condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(|error| format!("seccomp: {error}"))
    };
    let thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    rules.insert(libc::SYS_clone, vec![when(0, thread, 0)?]); // without the flag it would be a process
    for call in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
        rules.insert(call, vec![when(0, SeccompCmpOp::Ne, own)?]);
    }
    rules.insert(libc::SYS_prlimit64, vec![when(2, SeccompCmpOp::Ne, 0)?]); // asking is allowed
    apply(rules, libc::EPERM)?;
    // Its flags are in memory, where a filter cannot look; libraries fall back to `clone`.
    apply(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
}

fn apply(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<(), String> {
    let arch = std::env::consts::ARCH.try_into().map_err(|error| format!("seccomp: {error}"))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch);
    let program = filter.and_then(BpfProgram::try_from).map_err(|error| format!("seccomp: {error}"))?;
    seccompiler::apply_filter(&program).map_err(|error| format!("seccomp: {error}"))
}
