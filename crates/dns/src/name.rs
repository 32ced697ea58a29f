//! Domain names in wire form, lower case.

use std::fmt;

use smallvec::SmallVec;

/// RFC 1035 §2.3.4: a name has at most 255 bytes on the wire.
pub const NAME_BYTES_MAX: usize = 255;
/// RFC 1035 §2.3.4: a label has at most 63 bytes.
pub const LABEL_BYTES_MAX: usize = 63;

/// A domain name: length-prefixed labels in lower case, closed by the empty label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmallVec<[u8; 64]>);

/// The bytes or the text are no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It ends before its last label does.
    #[error("the name is cut off")]
    Truncated,
    /// A label is longer than 63 bytes, or empty inside the name.
    #[error("a label is empty or longer than 63 bytes")]
    BadLabel,
    /// The name is longer than 255 bytes.
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// A compression pointer where none is allowed.
    #[error("a compression pointer in a question")]
    Pointer,
}

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self(SmallVec::from_slice(&[0]))
    }

    /// From text, with or without a trailing dot; bytes are taken as they are (no escapes).
    pub fn from_text(text: &str) -> Result<Self, InvalidName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut name = Self::root();
        if text.is_empty() {
            return Ok(name);
        }
        name.0.clear();
        for label in text.split('.') {
            push_label(&mut name.0, label.as_bytes())?;
        }
        name.0.push(0);
        Ok(name)
    }

    /// From the start of `wire`, with the number of bytes it took. Pointers are refused: a question has nothing to point at.
    pub fn from_wire(wire: &[u8]) -> Result<(Self, usize), InvalidName> {
        let mut name = SmallVec::new();
        let mut at = 0;
        loop {
            let length = usize::from(*wire.get(at).ok_or(InvalidName::Truncated)?);
            at += 1;
            match length {
                0 => {
                    name.push(0);
                    return Ok((Self(name), at));
                }
                1..=LABEL_BYTES_MAX => {
                    push_label(&mut name, wire.get(at..at + length).ok_or(InvalidName::Truncated)?)?;
                    at += length;
                }
                _ if length & 0xc0 == 0xc0 => return Err(InvalidName::Pointer),
                _ => return Err(InvalidName::BadLabel),
            }
        }
    }

    /// This name below `parent`'s labels: `a.b` under `c.` is `a.b.c.`.
    pub fn under(&self, parent: &Name) -> Result<Self, InvalidName> {
        let own = self.0.len().saturating_sub(1);
        if own + parent.0.len() > NAME_BYTES_MAX {
            return Err(InvalidName::TooLong);
        }
        let mut joined = SmallVec::from_slice(self.0.get(..own).unwrap_or_default());
        joined.extend_from_slice(&parent.0);
        Ok(Self(joined))
    }

    /// The wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels, the first (lowest) one first, without the root.
    pub fn labels(&self) -> Labels<'_> {
        Labels(&self.0)
    }

    /// The labels left of `zone`, lowest first; `None` when the name is not in the zone.
    pub fn labels_in(&self, zone: &Name) -> Option<SmallVec<[&[u8]; 8]>> {
        let own_bytes = self.0.len().checked_sub(zone.0.len())?;
        if self.0.get(own_bytes..) != Some(&zone.0[..]) {
            return None;
        }
        let mut labels = SmallVec::new();
        let mut taken = 0;
        for label in self.labels() {
            if taken == own_bytes {
                return Some(labels);
            }
            taken += label.len() + 1;
            labels.push(label);
        }
        // The zone is the root, or the name is the zone itself; otherwise the tails matched across a label border.
        (taken == own_bytes).then_some(labels)
    }
}

fn push_label(name: &mut SmallVec<[u8; 64]>, label: &[u8]) -> Result<(), InvalidName> {
    let length = u8::try_from(label.len()).map_err(|_| InvalidName::BadLabel)?;
    if label.is_empty() || label.len() > LABEL_BYTES_MAX {
        return Err(InvalidName::BadLabel);
    }
    // Room for this label and the root label.
    if name.len() + label.len() + 2 > NAME_BYTES_MAX {
        return Err(InvalidName::TooLong);
    }
    name.push(length);
    name.extend(label.iter().map(u8::to_ascii_lowercase));
    Ok(())
}

/// Iterator over labels.
#[derive(Clone, Debug)]
pub struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        if *length == 0 {
            return None;
        }
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        self.0 = rest;
        Some(label)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            write!(f, "{}.", label.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        let long_label = [&[64][..], &[b'a'; 64], &[0]].concat();
        let long_name = [&[63][..], &[b'a'; 63]].concat().repeat(4);
        type Case<'a> = (&'a [u8], Result<(&'a str, usize), InvalidName>);
        let cases: [Case<'_>; 7] = [
            (b"\x01A\x02bC\0rest", Ok(("a.bc.", 6))),
            (b"\0", Ok((".", 1))),
            (b"\x05ab", Err(InvalidName::Truncated)),
            (b"", Err(InvalidName::Truncated)),
            (b"\xc0\x0c", Err(InvalidName::Pointer)),
            (&long_label, Err(InvalidName::BadLabel)),
            (&long_name, Err(InvalidName::TooLong)),
        ];
        for (wire, want) in cases {
            let got = Name::from_wire(wire).map(|(name, taken)| (name.to_string(), taken));
            assert_eq!(got, want.map(|(text, taken)| (text.to_owned(), taken)), "{wire:?}");
        }
        assert_eq!(Name::from_text("a..b"), Err(InvalidName::BadLabel));
    }

    #[test]
    fn being_in_a_zone_is_decided_at_label_borders() {
        let name = |text| Name::from_text(text).unwrap();
        let zone = name("cluster.local");
        let labels = |text| name(text).labels_in(&zone).map(|labels| labels.len());
        assert_eq!(labels("web.ns.svc.cluster.local"), Some(3));
        assert_eq!(labels("cluster.local"), Some(0));
        assert_eq!(labels("xcluster.local"), None);
        assert_eq!(labels("local"), None);
        assert_eq!(name("a.b").labels_in(&Name::root()).map(|labels| labels.len()), Some(2));
        // A label that contains the bytes of the zone's wire form must not count.
        let tricky = Name::from_wire(b"\x10x\x07cluster\x05local\0\0").unwrap().0;
        assert_eq!(tricky.labels_in(&zone), None);
    }
}
