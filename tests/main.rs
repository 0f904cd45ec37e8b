//! What a user meets: the program run from outside, and the house rules.

mod decontaminate;
mod distill;
mod eval;
mod life;
mod messages;
mod sandbox;
mod support;
mod tidy;
