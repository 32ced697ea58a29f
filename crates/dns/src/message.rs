//! The DNS message codec of the hot path: queries in, answers out.

use crate::answer::{Answer, Data, Record};
use crate::name::{InvalidName, Name};

/// RFC 6891: what we say we take over UDP, and what we send at most unless the client takes less.
pub const UDP_BYTES_MAX: u16 = 1232;
/// RFC 1035 §4.2.1: the limit without EDNS.
const UDP_BYTES_PLAIN: u16 = 512;
/// The fixed header.
const HEADER_BYTES: usize = 12;
/// Records other than OPT in a query's additional section (TSIG, SIG(0)) that are stepped over; more is FORMERR.
const EXTRA_RECORDS_MAX: u16 = 4;

/// Record types and classes by number, as far as decisions need them.
pub mod number {
    #![expect(missing_docs, reason = "the names are the standard's")]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
    pub const CLASS_IN: u16 = 1;
}

/// Response codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rcode {
    /// 0.
    NoError,
    /// 1: the query cannot be read.
    FormErr,
    /// 2: nobody could answer.
    ServFail,
    /// 3: the name does not exist.
    NxDomain,
    /// 4: an opcode other than QUERY.
    NotImp,
    /// 5: not for this server.
    Refused,
    /// 16 (RFC 6891): an EDNS version other than 0.
    BadVers,
}

impl Rcode {
    /// The number; above 15 the high bits travel in the OPT record.
    pub fn number(self) -> u8 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::BadVers => 16,
        }
    }

    /// The name as dig and CoreDNS's metrics write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::BadVers => "BADVERS",
        }
    }
}

/// EDNS as the client sent it (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// What it takes over UDP.
    pub udp_bytes: u16,
    /// 0 is the only one there is.
    pub version: u8,
    /// DNSSEC OK.
    pub dnssec_ok: bool,
}

/// A query that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Its id.
    pub id: u16,
    /// Recursion desired.
    pub recursion_desired: bool,
    /// Checking disabled.
    pub checking_disabled: bool,
    /// The question's name, lower case.
    pub name: Name,
    /// The question's type.
    pub kind: u16,
    /// The question as sent: name (its case is kept, draft-vixie-dnsext-dns0x20), type, class.
    pub question: &'a [u8],
    /// EDNS, when sent.
    pub edns: Option<Edns>,
}

/// What to do with a message that is no answerable query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    /// No header, or itself a response: no answer at all (answering responses makes loops).
    #[error("not a query")]
    Drop,
    /// Answer this code to that id; the header's flags are echoed where they must be.
    #[error("answered with an error code")]
    Refuse {
        /// The query's id.
        id: u16,
        /// Bytes 2 and 3 of the query.
        flags: u16,
        /// The code.
        rcode: Rcode,
    },
}

/// Reads a query.
pub fn parse(wire: &[u8]) -> Result<Query<'_>, Unanswerable> {
    let word = |at: usize| Some(u16::from_be_bytes([*wire.get(at)?, *wire.get(at + 1)?]));
    let (Some(id), Some(flags)) = (word(0), word(2)) else { return Err(Unanswerable::Drop) };
    let counts = [word(4), word(6), word(8), word(10)];
    let [Some(questions), Some(answers), Some(authorities), Some(additionals)] = counts else {
        return Err(Unanswerable::Drop);
    };
    if flags & 0x8000 != 0 {
        return Err(Unanswerable::Drop);
    }
    let refuse = |rcode| Unanswerable::Refuse { id, flags, rcode };
    if flags & 0x7800 != 0 {
        return Err(refuse(Rcode::NotImp));
    }
    if questions != 1 || answers != 0 || authorities != 0 || additionals > EXTRA_RECORDS_MAX {
        return Err(refuse(Rcode::FormErr));
    }
    let body = wire.get(HEADER_BYTES..).unwrap_or_default();
    let (name, name_bytes) = Name::from_wire(body).map_err(|_: InvalidName| refuse(Rcode::FormErr))?;
    let question = body.get(..name_bytes + 4).ok_or(refuse(Rcode::FormErr))?;
    let (kind, class) = match question.get(name_bytes..) {
        Some(&[a, b, c, d]) => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => return Err(refuse(Rcode::FormErr)),
    };
    let edns = find_opt(body.get(question.len()..).unwrap_or_default(), additionals)
        .map_err(|()| refuse(Rcode::FormErr))?;
    if class != number::CLASS_IN {
        return Err(refuse(Rcode::Refused));
    }
    Ok(Query {
        id,
        recursion_desired: flags & 0x0100 != 0,
        checking_disabled: flags & 0x0010 != 0,
        name,
        kind,
        question,
        edns,
    })
}

/// The OPT record among `count` records; two of them are an error (RFC 6891 §6.1.1).
fn find_opt(mut wire: &[u8], count: u16) -> Result<Option<Edns>, ()> {
    let mut found = None;
    for _ in 0..count {
        let (owner, owner_bytes) = Name::from_wire(wire).map_err(|_| ())?;
        let fixed: &[u8; 10] =
            wire.get(owner_bytes..owner_bytes + 10).and_then(|fixed| fixed.try_into().ok()).ok_or(())?;
        let [kind_a, kind_b, class_a, class_b, _extended, version, flags, _, length_a, length_b] = *fixed;
        let data_bytes = usize::from(u16::from_be_bytes([length_a, length_b]));
        wire = wire.get(owner_bytes + 10 + data_bytes..).ok_or(())?;
        if u16::from_be_bytes([kind_a, kind_b]) == number::OPT {
            let udp_bytes = u16::from_be_bytes([class_a, class_b]);
            let edns = Edns { udp_bytes, version, dnssec_ok: flags & 0x80 != 0 };
            if owner != Name::root() || found.replace(edns).is_some() {
                return Err(());
            }
        }
    }
    Ok(found)
}

/// How a message travels: what fits is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A stream: up to 65535 bytes.
    Tcp,
}

/// The longest answer this client takes.
pub fn limit_bytes(edns: Option<Edns>, transport: Transport) -> usize {
    match (transport, edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => usize::from(UDP_BYTES_PLAIN),
        (Transport::Udp, Some(edns)) => usize::from(edns.udp_bytes.clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX)),
    }
}

/// The answer to a message that could not be read: a header, and nothing else.
pub fn refusal(id: u16, flags: u16, rcode: Rcode) -> Vec<u8> {
    let mut wire = Vec::with_capacity(HEADER_BYTES);
    // Opcode and RD are echoed (RFC 1035 §4.1.1).
    let flags = 0x8000 | (flags & 0x7900) | u16::from(rcode.number() & 0x0f);
    for word in [id, flags, 0, 0, 0, 0] {
        wire.extend_from_slice(&word.to_be_bytes());
    }
    wire
}

/// Writes an answer of our own into `out` (cleared first). `rotation` turns address sets round, so that successive answers start
/// with successive addresses. What does not fit is left out: answers first set TC, additional records go silently (RFC 2181 §9).
pub fn encode(query: &Query<'_>, answer: &Answer, transport: Transport, rotation: usize, out: &mut Vec<u8>) {
    let opt_bytes = if query.edns.is_some() { 11 } else { 0 };
    let mut encoder =
        Encoder { out, limit: limit_bytes(query.edns, transport) - opt_bytes, names: Vec::new() };
    encoder.out.clear();
    encoder.out.resize(HEADER_BYTES, 0);
    encoder.out.extend_from_slice(query.question);
    encoder.names.push((query.name.clone(), HEADER_BYTES));
    let (mut truncated, mut counts) = (false, [0u16; 3]);
    let turn = if answer.rotates && !answer.answers.is_empty() { rotation % answer.answers.len() } else { 0 };
    let (tail, head) = answer.answers.split_at_checked(turn).unwrap_or_default();
    let sections =
        [head.iter().chain(tail), answer.authority.iter().chain(&[]), answer.additional.iter().chain(&[])];
    for (index, (records, count)) in sections.into_iter().zip(&mut counts).enumerate() {
        for record in records {
            if encoder.record(record) {
                *count += 1;
            } else {
                truncated |= index < 2;
                break;
            }
        }
        if truncated {
            break;
        }
    }
    if let Some(edns) = query.edns {
        let extended = answer.rcode.number() >> 4;
        let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
        let [size_a, size_b] = UDP_BYTES_MAX.to_be_bytes();
        encoder.out.extend_from_slice(&[0, 0, 41, size_a, size_b, extended, 0, dnssec_ok, 0, 0, 0]);
    }
    let additional = counts[2] + u16::from(query.edns.is_some());
    let flags = 0x8000
        | if answer.authoritative { 0x0400 } else { 0 }
        | if truncated { 0x0200 } else { 0 }
        | if query.recursion_desired { 0x0100 } else { 0 }
        | 0x0080
        | if query.checking_disabled { 0x0010 } else { 0 }
        | u16::from(answer.rcode.number() & 0x0f);
    for (slot, word) in out.chunks_exact_mut(2).zip([query.id, flags, 1, counts[0], counts[1], additional]) {
        slot.copy_from_slice(&word.to_be_bytes());
    }
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    /// Names written so far, with their offsets: pointer targets.
    names: Vec<(Name, usize)>,
}

impl Encoder<'_> {
    /// False, and nothing written, when the record does not fit.
    fn record(&mut self, record: &Record) -> bool {
        let start = self.out.len();
        self.name(&record.owner, true);
        self.out.extend_from_slice(&record.data.kind().to_be_bytes());
        self.out.extend_from_slice(&number::CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&record.ttl_s.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        self.data(&record.data);
        let data_bytes = u16::try_from(self.out.len() - length_at - 2).unwrap_or(u16::MAX);
        if let Some(slot) = self.out.get_mut(length_at..length_at + 2) {
            slot.copy_from_slice(&data_bytes.to_be_bytes());
        }
        if self.out.len() > self.limit {
            self.out.truncate(start);
            self.names.retain(|(_, at)| *at < start);
            return false;
        }
        true
    }

    fn data(&mut self, data: &Data) {
        match data {
            Data::A(address) => self.out.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => self.out.extend_from_slice(&address.octets()),
            Data::Cname(name) | Data::Ptr(name) | Data::Ns(name) => self.name(name, true),
            Data::Txt(text) => {
                self.out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
                self.out.extend(text.bytes().take(usize::from(u8::MAX)));
            }
            Data::Srv { priority, weight, port, target } => {
                for word in [priority, weight, port] {
                    self.out.extend_from_slice(&word.to_be_bytes());
                }
                // RFC 2782: the target is not compressed.
                self.name(target, false);
            }
            Data::Soa { primary, contact, serial, refresh_s, retry_s, expire_s, negative_ttl_s } => {
                self.name(primary, true);
                self.name(contact, true);
                for word in [serial, refresh_s, retry_s, expire_s, negative_ttl_s] {
                    self.out.extend_from_slice(&word.to_be_bytes());
                }
            }
            Data::Other { data, .. } => self.out.extend_from_slice(data),
        }
    }

    /// Writes a name; with `compress`, as a pointer as soon as the rest of it was written before (RFC 1035 §4.1.4).
    fn name(&mut self, name: &Name, compress: bool) {
        let mut rest = name.as_wire();
        let start = self.out.len();
        while let Some((&length, after)) = rest.split_first().filter(|(length, _)| **length != 0) {
            if compress && let Some(at) = self.offset_of(rest) {
                self.out.extend_from_slice(&(0xc000 | at).to_be_bytes());
                return;
            }
            let Some((label, tail)) = after.split_at_checked(usize::from(length)) else { break };
            self.out.push(length);
            self.out.extend_from_slice(label);
            rest = tail;
        }
        self.out.push(0);
        if start < 0x3fff && self.names.len() < 32 {
            self.names.push((name.clone(), start));
        }
    }

    /// Where a name with this tail was written uncompressed. Only names written in full are kept, so offsets inside them are exact.
    fn offset_of(&self, tail: &[u8]) -> Option<u16> {
        self.names.iter().find_map(|(name, at)| {
            let wire = name.as_wire();
            let skipped = wire.len().checked_sub(tail.len())?;
            let on_border = || is_label_border(wire, skipped);
            (wire.get(skipped..) == Some(tail) && on_border())
                .then(|| u16::try_from(at + skipped).ok().filter(|at| *at < 0x4000))?
        })
    }
}

fn is_label_border(wire: &[u8], offset: usize) -> bool {
    let mut at = 0;
    while at < offset {
        at += wire.get(at).map_or(usize::MAX / 2, |length| usize::from(*length) + 1);
    }
    at == offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, extra: &[u8], additionals: u8) -> Vec<u8> {
        let mut wire = vec![0x12, 0x34, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, additionals];
        wire.extend_from_slice(Name::from_text(name).unwrap().as_wire());
        wire.extend_from_slice(&[0, 1, 0, 1]);
        wire.extend_from_slice(extra);
        wire
    }

    const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0];

    #[test]
    fn a_query_is_read_with_its_edns() {
        let wire = query("Web.ns.svc.cluster.local", &OPT, 1);
        let read = parse(&wire).unwrap();
        assert_eq!(
            (read.id, read.kind, read.recursion_desired, read.checking_disabled),
            (0x1234, 1, true, true)
        );
        assert_eq!(read.name.to_string(), "web.ns.svc.cluster.local.");
        assert_eq!(read.edns, Some(Edns { udp_bytes: 1232, version: 0, dnssec_ok: true }));
    }

    #[test]
    fn what_cannot_be_answered_is_refused_or_dropped() {
        let refused = |rcode| move |error: Unanswerable| matches!(error, Unanswerable::Refuse { rcode: got, .. } if got == rcode);
        let edit = |at: usize, to: u8| {
            let mut wire = query("a", &[], 0);
            wire[at] = to;
            wire
        };
        assert_eq!(parse(&[0; 11]), Err(Unanswerable::Drop));
        assert_eq!(parse(&edit(2, 0x81)), Err(Unanswerable::Drop), "a response");
        assert!(parse(&edit(2, 0x28)).is_err_and(refused(Rcode::NotImp)), "UPDATE");
        assert!(parse(&edit(5, 2)).is_err_and(refused(Rcode::FormErr)), "two questions");
        assert!(parse(&edit(7, 1)).is_err_and(refused(Rcode::FormErr)), "answers in a query");
        assert!(parse(&edit(12, 0xc0)).is_err_and(refused(Rcode::FormErr)), "pointer in the question");
        assert!(parse(&edit(18, 3)).is_err_and(refused(Rcode::Refused)), "class CHAOS");
        assert!(parse(&query("a", &OPT[..5], 1)).is_err_and(refused(Rcode::FormErr)), "cut OPT");
        assert!(parse(&query("a", &[OPT, OPT].concat(), 2)).is_err_and(refused(Rcode::FormErr)), "two OPT");
        for cut in 12..query("abc.def", &OPT, 1).len() {
            assert!(parse(&query("abc.def", &OPT, 1)[..cut]).is_err(), "cut at {cut}");
        }
    }

    fn addresses(owner: &str, count: u8) -> Answer {
        let record = |last| Record {
            owner: Name::from_text(owner).unwrap(),
            ttl_s: 5,
            data: Data::A([10, 0, 0, last].into()),
        };
        Answer { answers: (0..count).map(record).collect(), rotates: true, ..Answer::no_data() }
    }

    #[test]
    fn answers_are_cut_to_what_the_client_takes_and_say_so() {
        let (plain, edns) = (query("web.ns", &[], 0), query("web.ns", &OPT, 1));
        let mut out = Vec::new();
        let mut encoded = |wire: &[u8], transport| {
            encode(&parse(wire).unwrap(), &addresses("web.ns", 60), transport, 0, &mut out);
            (out.len(), out[2] & 0x02 != 0, u16::from_be_bytes([out[6], out[7]]))
        };
        assert_eq!(encoded(&plain, Transport::Udp), (12 + 12 + 30 * 16, true, 30));
        assert_eq!(encoded(&edns, Transport::Udp), (12 + 12 + 60 * 16 + 11, false, 60));
        assert_eq!(encoded(&plain, Transport::Tcp), (12 + 12 + 60 * 16, false, 60));
    }

    #[test]
    fn rotation_starts_with_another_address() {
        let wire = query("web.ns", &[], 0);
        let mut out = Vec::new();
        let first = |rotation, out: &mut Vec<u8>| {
            encode(&parse(&wire).unwrap(), &addresses("web.ns", 3), Transport::Udp, rotation, out);
            out[24 + 15]
        };
        assert_eq!([0, 1, 2, 3].map(|rotation| first(rotation, &mut out)), [0, 1, 2, 0]);
    }
}
