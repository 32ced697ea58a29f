//! Reasons without a second implementation: a decision function reports its steps to a [`Trace`].

/// Receives the steps of a decision. `S` is the step type of that decision.
pub trait Trace<S> {
    /// False when steps are thrown away. Decisions may look at more candidates than they need (to say why each lost) only under this
    /// constant, so that the untraced decision stays as fast as if there were no trace.
    const RECORDS: bool;

    /// Takes a step; the closure runs only when steps are kept.
    fn record(&mut self, step: impl FnOnce() -> S);
}

/// Keeps nothing: the bare decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTrace;

impl<S> Trace<S> for NoTrace {
    const RECORDS: bool = false;

    #[inline(always)]
    fn record(&mut self, _: impl FnOnce() -> S) {}
}

/// Keeps every step, in order.
impl<S> Trace<S> for Vec<S> {
    const RECORDS: bool = true;

    fn record(&mut self, step: impl FnOnce() -> S) {
        self.push(step());
    }
}
