//! The kernel side, loaded and attached: the only place that knows aya.

mod attach;
mod batch;
mod experiment;
mod features;
mod hellos;
mod keep;
mod load;
mod messages;
mod reports;
mod stack;

pub use attach::{Attachment, Hook, Standing};
pub use features::{Feature, State as FeatureState, features};
pub use hellos::Hellos;
pub use keep::{InUse, Memory, Pins, is_bpf_file_system};
pub use load::{Admission, Live, Options, PROGRAMS, Program};
pub use reports::Reports;
pub use stack::stack_bytes;
