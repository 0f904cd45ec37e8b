//! What is measured, and how: medians over repeated runs, beside what the machine could do at most.
//!
//! Holds: the benchmarks of `slm bench`, the machine's ceilings, the statistics.
//! Never: claims. Numbers are kept in `records/`, with the commit and the machine.
//! Start reading at [`Measurement`].

mod bench;
mod ceiling;
mod decode;
mod imposed;
mod kernels;
mod measure;
mod prefill;
mod profile;
mod shapes;
mod speculative;
mod train;

pub use bench::{Bench, Outcome};
pub use ceiling::{Ceiling, Ceilings};
pub use decode::{decode, verify};
pub use imposed::{ImposedResult, ImposedWidth, alpha_of, imposed};
pub use kernels::kernels;
pub use measure::{BenchError, Measurement, Statistics, Types};
pub use prefill::prefill;
pub use profile::{Profile, ProfileLine, Profiled};
pub use shapes::{amd_135m, code_llama_7b};
pub use speculative::{
    Formula, Passed, PromptResult, Run, SpeculativePrompt, Speed, Summary, compare_texts, markdown, write_text,
};
pub use train::{TrainShape, train};
