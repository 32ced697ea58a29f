//! Selectors of labels and fields.

mod fields;
mod labels;

pub use fields::FieldSelector;
pub use labels::{LabelSelector, Operator, Requirement, SelectorError};
