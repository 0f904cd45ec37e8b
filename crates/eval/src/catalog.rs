//! All tasks and groups there are: those of the program, and those of the user's files.

use crate::task_file::{self, Content, GroupFields, nearest};
use crate::{EvalError, Metric, Task};
use formats::file;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

macro_rules! task_files {
    ($($name:literal)*) => {
        /// The files of the program. Those that begin with `_` are for including.
        const FILES: &[(&str, &str)] = &[$((concat!($name, ".yaml"), include_str!(concat!("../tasks/", $name, ".yaml")))),*];
    };
}

task_files! {
    "_mmlu_subject" "arc_challenge" "arc_easy" "boolq" "commonsense_qa" "copa" "gsm8k" "hellaswag" "humaneval" "humaneval_64"
    "humaneval_instruct" "lambada_openai" "logiqa" "mbpp" "mmlu"
    "mmlu_humanities" "mmlu_humanities_subjects" "mmlu_other" "mmlu_other_subjects" "mmlu_social_sciences"
    "mmlu_social_sciences_subjects" "mmlu_stem" "mmlu_stem_subjects" "openbookqa" "piqa" "sciq" "social_iqa"
    "truthfulqa_mc1" "truthfulqa_mc2" "wikitext" "winogrande" "wsc"
}

/// Tasks whose results are also put together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What reports call it.
    pub alias: String,
    /// The tasks and groups it names, tags resolved.
    pub members: Vec<String>,
    /// The tasks below it.
    pub leaves: Vec<String>,
    /// Metrics that are averaged, and whether each task counts by its documents.
    pub metrics: Vec<(Metric, bool)>,
    /// The version of its rules.
    pub version: Value,
}

/// Every task and group by name.
#[derive(Default)]
pub struct Catalog {
    tasks: Vec<Arc<Task>>,
    groups: Vec<GroupFields>,
}

/// What a user asked for.
#[derive(Default)]
pub struct Selection {
    /// Tasks, each once, in the order asked for.
    pub tasks: Vec<Arc<Task>>,
    /// Groups above them, inner ones first.
    pub groups: Vec<Group>,
}

impl Catalog {
    /// The tasks of the program.
    ///
    /// # Errors
    /// A file that is not understood.
    pub fn builtin() -> Result<Self, EvalError> {
        let mut catalog = Self::default();
        let include = |name: &str| FILES.iter().find(|file| file.0 == name).map(|file| file.1.to_owned());
        for (name, text) in FILES.iter().filter(|file| !file.0.starts_with('_')) {
            catalog.add(name, task_file::read(name, text, &include)?)?;
        }
        Ok(catalog)
    }

    /// Adds the task files of a folder, or one; tasks of the same name are replaced.
    ///
    /// # Errors
    /// The disk; a file that is not understood.
    pub fn add_path(&mut self, path: &Path) -> Result<(), EvalError> {
        let files = if file::is_dir(path) { file::list(path)? } else { vec![path.to_owned()] };
        let folder = if file::is_dir(path) { path } else { path.parent().unwrap_or(Path::new(".")) };
        let include = |name: &str| {
            let beside = file::read_to_string(&folder.join(name)).ok();
            beside.or_else(|| FILES.iter().find(|file| file.0 == name).map(|file| file.1.to_owned()))
        };
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let is_yaml = name.ends_with(".yaml") || name.ends_with(".yml");
            if path == file || (is_yaml && !name.starts_with('_')) {
                let shown = file.display().to_string();
                self.add(&shown, task_file::read(&shown, &file::read_to_string(&file)?, &include)?)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, file: &str, content: Content) -> Result<(), EvalError> {
        match content {
            Content::Group(group) => {
                self.groups.retain(|other| other.group != group.group);
                self.groups.push(group);
            }
            Content::Tasks(tasks) => {
                for fields in tasks {
                    let task = Task::new(file, fields)?;
                    self.tasks.retain(|other| other.name != task.name);
                    self.tasks.push(Arc::new(task));
                }
            }
        }
        Ok(())
    }

    /// Names of all tasks and groups, without the subjects of groups.
    pub fn names(&self) -> Vec<&str> {
        let grouped = |task: &&Arc<Task>| {
            !self.groups.iter().any(|group| {
                let members = group.task.clone().into_vec();
                members.contains(&task.name) || task.tags.iter().any(|tag| members.contains(tag))
            })
        };
        let tasks = self.tasks.iter().filter(grouped).map(|task| task.name.as_str());
        let mut names: Vec<&str> = tasks.chain(self.groups.iter().map(|group| group.group.as_str())).collect();
        names.sort_unstable();
        names
    }

    /// The tasks, groups and tags of these names.
    ///
    /// # Errors
    /// A name that nothing has.
    pub fn select(&self, names: &[String]) -> Result<Selection, EvalError> {
        let mut selection = Selection::default();
        for name in names {
            if self.resolve(name, &mut selection, 0)?.is_empty() {
                let known = self.names();
                let tasks = self.tasks.iter().map(|task| task.name.as_str());
                let nearest = nearest(name, known.iter().copied().chain(tasks));
                return Err(EvalError::UnknownTask { name: name.clone(), nearest, known: known.join(", ") });
            }
        }
        Ok(selection)
    }

    /// Adds what a name stands for; returns the names of the tasks below it.
    fn resolve(&self, name: &str, selection: &mut Selection, depth: usize) -> Result<Vec<String>, EvalError> {
        if let Some(group) = self.groups.iter().find(|group| group.group == name) {
            return self.resolve_group(group, selection, depth);
        }
        let mut found = Vec::new();
        for task in self.tasks.iter().filter(|task| task.name == name || task.tags.iter().any(|tag| tag == name)) {
            found.push(task.name.clone());
            if !selection.tasks.iter().any(|other| other.name == task.name) {
                selection.tasks.push(Arc::clone(task));
            }
        }
        Ok(found)
    }

    fn resolve_group(
        &self,
        group: &GroupFields,
        selection: &mut Selection,
        depth: usize,
    ) -> Result<Vec<String>, EvalError> {
        let problem = |problem: String| EvalError::TaskFile { file: format!("group {}", group.group), problem };
        if depth > 8 {
            return Err(problem("it is a member of itself".into()));
        }
        let (mut members, mut leaves) = (Vec::new(), Vec::new());
        for member in group.task.clone().into_vec() {
            let below = self.resolve(&member, selection, depth + 1)?;
            if below.is_empty() {
                return Err(problem(format!("its member {member} is neither a task nor a group nor a tag")));
            }
            let is_tag = !below.contains(&member) && !self.groups.iter().any(|group| group.group == member);
            members.extend(if is_tag { below.clone() } else { vec![member] });
            leaves.extend(below);
        }
        if selection.groups.iter().any(|other| other.name == group.group) {
            return Ok(leaves);
        }
        let metric = |field: &task_file::MetricField| match field.metric.as_str() {
            "acc" => Ok((Metric::Acc, field.weight_by_size.unwrap_or(true))),
            "acc_norm" => Ok((Metric::AccNorm, field.weight_by_size.unwrap_or(true))),
            other => Err(problem(format!("metric {other:?} cannot be averaged over tasks; use acc or acc_norm"))),
        };
        selection.groups.push(Group {
            name: group.group.clone(),
            alias: group.group_alias.clone().unwrap_or_else(|| group.group.clone()),
            members,
            leaves: leaves.clone(),
            metrics: group.aggregate_metric_list.iter().map(metric).collect::<Result<_, _>>()?,
            version: group.metadata.as_ref().and_then(|data| data.get("version").cloned()).unwrap_or(Value::Null),
        });
        Ok(leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        file::write_bytes(&path, text.as_bytes()).unwrap();
        (folder, path)
    }

    const GOOD: &str = "task: mine\ndataset_path: mine\noutput_type: multiple_choice\ntest_split: test\n\
                        doc_to_text: q\ndoc_to_target: a\ndoc_to_choice: [one, two]\nmetric_list: [{metric: acc}]\n";

    fn problem(text: &str) -> String {
        let (_folder, path) = write("mine.yaml", text);
        Catalog::default().add_path(&path).unwrap_err().to_string()
    }

    #[test]
    fn the_programs_own_files_are_good() {
        let catalog = Catalog::builtin().unwrap();
        let all = catalog.select(&["mmlu".into(), "sciq".into(), "ai2_arc".into()]).unwrap();
        assert_eq!(all.tasks.len(), 57 + 1 + 2);
        let groups = all.groups.iter().map(|group| (group.name.as_str(), group.leaves.len())).collect::<Vec<_>>();
        let inner = [("mmlu_stem", 19), ("mmlu_other", 13), ("mmlu_social_sciences", 12), ("mmlu_humanities", 13)];
        assert_eq!(groups, [&inner[..], &[("mmlu", 57)]].concat());
        let subject = all.tasks.iter().find(|task| task.name == "mmlu_high_school_us_history").unwrap();
        assert_eq!(
            subject.description,
            "The following are multiple choice questions (with answers) about high school us history.\n\n"
        );
        assert_eq!(subject.dataset_where["subject"], "high_school_us_history");
        assert!(catalog.names().contains(&"mmlu") && !catalog.names().contains(&"mmlu_anatomy"));
    }

    #[test]
    fn the_task_that_contributing_shows_is_one() {
        let guide = include_str!("../../../CONTRIBUTING.md");
        let example = guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let (_folder, path) = write("capitals.yaml", example);
        let mut catalog = Catalog::builtin().unwrap();
        catalog.add_path(&path).unwrap();
        assert_eq!(catalog.select(&["capitals".into()]).unwrap().tasks[0].name, "capitals");
    }

    #[test]
    fn unknown_tasks_are_named_with_the_nearest() {
        let refused = |name: &str| Catalog::builtin().unwrap().select(&[name.into()]).err().unwrap().to_string();
        assert!(refused("helaswag").contains("did you mean hellaswag?"), "{}", refused("helaswag"));
        let unknown = refused("drop");
        assert!(unknown.starts_with("drop: there is no such task") && unknown.contains("winogrande"));
    }

    #[test]
    fn a_users_file_adds_a_task_and_bad_ones_are_refused_in_a_sentence() {
        let (_folder, path) = write("mine.yaml", GOOD);
        let mut catalog = Catalog::builtin().unwrap();
        catalog.add_path(path.parent().unwrap()).unwrap();
        assert_eq!(catalog.select(&["mine".into()]).unwrap().tasks[0].shots(Some(3)), 3);
        for (old, new, expected) in [
            ("doc_to_text", "doc_to_txt", "unknown field `doc_to_txt` (did you mean `doc_to_text`?)"),
            ("test_split: test\n", "", "`validation_split`"),
            ("metric: acc", "metric: acc_nrom", "did you mean acc_norm?"),
            ("multiple_choice", "generate_unless", "must be multiple_choice, loglikelihood"),
            (
                "multiple_choice",
                "generate_until",
                "metric \"acc\" is unknown here; there are exact_match, pass_at_1, pass_at_k",
            ),
            ("multiple_choice", "generate_until\nunsafe_code: false", "metric \"acc\" is unknown here"),
            ("doc_to_text: q", "doc_to_text: !function utils.text", "`doc_to_text` is a Python function"),
            ("doc_to_text: q\n", "", "the field `doc_to_text` is missing"),
            ("doc_to_text: q", "include: other.yaml", "which is not beside it"),
            ("doc_to_text: q", "doc_to_text: [", "mine.yaml: "),
            ("doc_to_text: q", "doc_to_text: q\nprocess_docs: x", "write what it does into the templates"),
        ] {
            let message = problem(&GOOD.replace(old, new));
            assert!(message.contains(expected) && !message.contains('\n'), "{new}: {message}");
        }
    }
}
