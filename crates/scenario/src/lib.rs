//! Network tests as code: parse, run, report.
