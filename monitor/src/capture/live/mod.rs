//! The kernel side, loaded and attached: the only place that knows aya.

mod attach;
mod batch;
mod features;
mod load;
mod messages;
mod reports;

pub use attach::{Attachment, Hook};
pub use features::{Feature, State as FeatureState, features};
pub use load::{Live, Options, PROGRAMS, Program};
pub use reports::Reports;
