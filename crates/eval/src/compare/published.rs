//! Results that AMD published for AMD-Llama-135m and the models it was compared with: `acc` and its standard error.
//!
//! From the model card (the table of the README of AMD's repository), as printed. The rows come from two versions of
//! lm-evaluation-harness: the errors of MMLU tell them apart.

/// Where the numbers are from, as reports say it.
pub(crate) const SOURCE: &str = "AMD's model card of AMD-Llama-135m (acc, zero examples; two harness versions mixed)";

/// A published row.
#[derive(Clone, Debug)]
pub struct Published {
    /// The model.
    pub model: &'static str,
    /// One a task of [`TASKS`]: accuracy, standard error.
    numbers: [(f64, f64); 10],
}

/// The columns.
const TASKS: [&str; 10] =
    ["sciq", "winogrande", "piqa", "wsc", "mmlu", "lambada_openai", "arc_easy", "arc_challenge", "logiqa", "hellaswag"];

const ROWS: [Published; 5] = [
    Published {
        model: "GPT2-124M (small)",
        numbers: [
            (0.753, 0.0136),
            (0.5162, 0.0140),
            (0.6289, 0.0113),
            (0.4327, 0.0488),
            (0.2292, 0.0383),
            (0.3256, 0.0065),
            (0.4381, 0.0102),
            (0.1903, 0.0115),
            (0.2181, 0.0162),
            (0.2892, 0.0045),
        ],
    },
    Published {
        model: "OPT-125M",
        numbers: [
            (0.751, 0.014),
            (0.503, 0.014),
            (0.630, 0.011),
            (0.365, 0.047),
            (0.229, 0.038),
            (0.379, 0.007),
            (0.436, 0.010),
            (0.191, 0.012),
            (0.229, 0.016),
            (0.292, 0.004),
        ],
    },
    Published {
        model: "JackFram/llama-68m",
        numbers: [
            (0.652, 0.0151),
            (0.513, 0.014),
            (0.6197, 0.0113),
            (0.4038, 0.0483),
            (0.2302, 0.0035),
            (0.1351, 0.0048),
            (0.3864, 0.0100),
            (0.1792, 0.0112),
            (0.2273, 0.0164),
            (0.2790, 0.0045),
        ],
    },
    Published {
        model: "JackFram/llama-160m",
        numbers: [
            (0.724, 0.0141),
            (0.5012, 0.0141),
            (0.6605, 0.011),
            (0.3654, 0.0474),
            (0.2299, 0.0035),
            (0.3134, 0.0065),
            (0.4335, 0.0102),
            (0.1980, 0.0116),
            (0.2197, 0.0162),
            (0.3094, 0.0046),
        ],
    },
    Published {
        model: "AMD-Llama-135m",
        numbers: [
            (0.761, 0.0135),
            (0.5012, 0.0141),
            (0.6420, 0.0112),
            (0.3654, 0.0474),
            (0.2302, 0.0035),
            (0.3330, 0.0066),
            (0.4364, 0.0102),
            (0.1911, 0.0115),
            (0.2120, 0.0160),
            (0.3048, 0.0046),
        ],
    },
];

/// All rows.
pub(crate) fn all() -> Vec<Published> {
    ROWS.to_vec()
}

/// Place of a task in the table; those that are not in it come last.
pub(crate) fn place(task: &str) -> usize {
    TASKS.iter().position(|name| *name == task).unwrap_or(TASKS.len())
}

impl Published {
    /// Accuracy and standard error on a task.
    pub(crate) fn number(&self, task: &str) -> Option<(f64, f64)> {
        self.numbers.get(place(task)).copied()
    }
}
