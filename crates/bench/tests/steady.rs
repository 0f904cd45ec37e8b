//! A step is steady: after the first few, a training step and a decoded token allocate nothing, touch no new page, and
//! wait for nothing. One test in a process of its own, since what is counted is the whole process's.

use backend::{Heads, Precision};
use cap::Cap;
use cpu::Cpu;
use infer::Session;
use model::{Config, Parameters, Rope, RopeScaling, Scheme};
use std::alloc::System;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use train::BatchShape;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What the process has spent since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spent {
    /// Bytes that were allocated, by any thread.
    allocated: usize,
    /// Pages that had to be given by the system.
    faults: u64,
    /// Times that a thread gave its processor away to wait.
    sleeps: u64,
}

/// Reads counters without allocating.
struct Meter {
    /// `status` of each thread.
    threads: Vec<PathBuf>,
    buffer: [u8; 8192],
    spent: Vec<Spent>,
}

impl Meter {
    /// A meter of the threads that there are now, for `steps` steps.
    fn new(steps: usize) -> Self {
        let tasks = std::fs::read_dir("/proc/self/task").expect("the threads of this process");
        let threads = tasks.map(|task| task.expect("a thread").path().join("status")).collect();
        Self { threads, buffer: [0; 8192], spent: Vec::with_capacity(steps) }
    }

    fn read(buffer: &mut [u8], path: &std::path::Path) -> usize {
        File::open(path).and_then(|mut file| file.read(buffer)).unwrap_or(0)
    }

    fn take(&mut self) {
        let mut sleeps = 0;
        for thread in &self.threads {
            let len = Self::read(&mut self.buffer, thread);
            let text = std::str::from_utf8(&self.buffer[..len]).expect("status is text");
            let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sleeps += line.map_or(0, |count| count.trim().parse::<u64>().expect("a count"));
        }
        let len = Self::read(&mut self.buffer, "/proc/self/stat".as_ref());
        let text = std::str::from_utf8(&self.buffer[..len]).expect("stat is text");
        // Fields after the name in parentheses: state, parent, group, session, terminal, its group, flags, faults.
        let faults = text.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(7)).expect("a field");
        let faults = faults.parse().expect("a count");
        self.spent.push(Spent { allocated: ALLOCATOR.total_allocated(), faults, sleeps });
    }

    /// What each step of the second half cost.
    fn steady(&self) -> Vec<Spent> {
        let costs: Vec<_> = self
            .spent
            .windows(2)
            .map(|pair| Spent {
                allocated: pair[1].allocated - pair[0].allocated,
                faults: pair[1].faults - pair[0].faults,
                sleeps: pair[1].sleeps - pair[0].sleeps,
            })
            .collect();
        costs[costs.len() / 2..].to_vec()
    }
}

/// The system can take a page back, and two threads can need scratch at the same time for the first time: so not every
/// step is like the others. But what a step does by itself every step does. Whether one of two threads sleeps depends on
/// what else runs on the machine, so that is looked at with one thread alone.
fn check(what: &str, threads: usize, meter: &Meter) {
    let costs = meter.steady();
    let most = |free: fn(&Spent) -> bool| costs.iter().filter(|cost| free(cost)).count() * 4 > costs.len() * 3;
    let some = |free: fn(&Spent) -> bool| costs.iter().any(free);
    if threads == 1 {
        assert!(costs.iter().all(|cost| cost.allocated == 0), "{what}: {costs:?}");
        assert!(some(|cost| cost.sleeps == 0), "{what}, sleeps: {costs:?}");
    }
    assert!(most(|cost| cost.allocated == 0), "{what}, {threads} threads, allocates: {costs:?}");
    assert!(some(|cost| cost.faults == 0), "{what}, {threads} threads, takes new pages: {costs:?}");
}

fn config() -> Config {
    Config {
        vocab: 300,
        width: 64,
        layers: 2,
        heads: Heads { heads: 4, kv_heads: 2, head_dim: 16 },
        ffn_width: 96,
        context: 256,
        norm_epsilon: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        tied: false,
        bos: None,
        eos: Vec::new(),
        architecture: model::Architecture::Llama,
        form: model::Form::LLAMA,
        initializer_range: 0.02,
    }
}

#[test]
fn nothing_is_allocated_in_a_step() {
    for threads in [1, 2] {
        let cpu = Cpu::new(threads, None).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            const STEPS: usize = 40;
            let mut meter = Meter::new(STEPS + 1);
            // Three sequences in micro-batches of two: the last is half empty.
            let batch = BatchShape { tokens: 64, sequences: 3, micro_batch: 2 };
            train::time_steps(&cpu, &config(), batch, precision, STEPS, &mut |_| meter.take()).unwrap();
            check("a training step", threads, &meter);

            let parameters = Parameters::initialize(&cpu, &config(), Scheme::Gpt2, 1, precision).unwrap();
            let model = parameters.model();
            let mut session = Session::new(&cpu, &model, 256).unwrap();
            session.prefill(&[1, 2, 3, 4, 5, 6, 7]).unwrap();
            let mut meter = Meter::new(200);
            for id in 0..200 {
                session.extend(&[id]).unwrap();
                meter.take();
            }
            check("a decoded token", threads, &meter);
            drop(session);
            parameters.free(&cpu);
        }
    }
}
