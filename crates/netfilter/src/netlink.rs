//! Numbers of linux/netfilter/nf_tables.h, nfnetlink.h, nfnetlink_conntrack.h and netlink.h that have no constant in `libc`.

/// Attribute and message numbers, one module per kernel enum.
macro_rules! numbers {
    ($($module:ident: $kind:ty { $($name:ident = $value:expr),* $(,)? })*) => {
        $(pub(crate) mod $module { $(pub(crate) const $name: $kind = $value;)* })*
    };
}

numbers! {
    batch: u16 { BEGIN = 0x10, END = 0x11 }
    subsystem: u16 { CONNTRACK = 1, NFTABLES = 10 }
    control: u16 { ERROR = 2, DONE = 3 }
    flag: u16 {
        REQUEST = 1, ACK = 4, DUMP_INTERRUPTED = 0x10, DUMP = 0x300, CREATE = 0x400, APPEND = 0x800,
        // In an error message: the offending message is not repeated; extended attributes follow.
        CAPPED = 0x100, EXTENDED = 0x200,
    }
    extended: u16 { MESSAGE = 1, OFFSET = 2 }
    message: u16 {
        NEW_TABLE = 0, GET_TABLE = 1, DELETE_TABLE = 2, NEW_CHAIN = 3, GET_CHAIN = 4, DELETE_CHAIN = 5, NEW_RULE = 6, GET_RULE = 7,
        DELETE_RULE = 8, NEW_SET = 9, GET_SET = 10, DELETE_SET = 11, NEW_ELEMENT = 12, GET_ELEMENT = 13, DELETE_ELEMENT = 14, GET_GENERATION = 16,
    }
    generation: u16 { ID = 1 }
    list: u16 { ELEMENT = 1 }
    table: u16 { NAME = 1, FLAGS = 2, USERDATA = 6 }
    chain: u16 { TABLE = 1, NAME = 3, HOOK = 4, POLICY = 5, TYPE = 7, USERDATA = 12 }
    hook: u16 { NUMBER = 1, PRIORITY = 2 }
    rule: u16 { TABLE = 1, CHAIN = 2, HANDLE = 3, EXPRESSIONS = 4, USERDATA = 7 }
    set: u16 {
        TABLE = 1, NAME = 2, FLAGS = 3, KEY_TYPE = 4, KEY_LEN = 5, DATA_TYPE = 6, DATA_LEN = 7, DESCRIPTION = 9, ID = 10, USERDATA = 13,
    }
    set_description: u16 { SIZE = 1, FIELDS = 2 }
    set_field: u16 { LEN = 1 }
    set_flag: u32 { INTERVAL = 0x4, MAP = 0x8, TIMEOUT = 0x10, EVAL = 0x20, CONCATENATED = 0x80 }
    element_list: u16 { TABLE = 1, SET = 2, ELEMENTS = 3 }
    element: u16 { KEY = 1, DATA = 2, FLAGS = 3, USERDATA = 6, KEY_END = 10 }
    element_flag: u32 { INTERVAL_END = 1 }
    data: u16 { VALUE = 1, VERDICT = 2 }
    verdict: u16 { CODE = 1, CHAIN = 2 }
    expression: u16 { NAME = 1, DATA = 2 }
    payload: u16 { DESTINATION = 1, BASE = 2, OFFSET = 3, LEN = 4 }
    meta: u16 { DESTINATION = 1, KEY = 2, SOURCE = 3 }
    ct: u16 { DESTINATION = 1, KEY = 2 }
    fib: u16 { DESTINATION = 1, RESULT = 2, FLAGS = 3 }
    numgen: u16 { DESTINATION = 1, MODULUS = 2, TYPE = 3, OFFSET = 4 }
    bitwise: u16 { SOURCE = 1, DESTINATION = 2, LEN = 3, MASK = 4, XOR = 5 }
    cmp: u16 { SOURCE = 1, OP = 2, DATA = 3 }
    lookup: u16 { SET = 1, SOURCE = 2, DESTINATION = 3, FLAGS = 5 }
    dynset: u16 { SET = 1, OPERATION = 3, KEY = 4, DATA = 5, TIMEOUT = 6 }
    immediate: u16 { DESTINATION = 1, DATA = 2 }
    nat: u16 { TYPE = 1, FAMILY = 2, ADDRESS_MIN = 3, PORT_MIN = 5 }
    masquerade: u16 { FLAGS = 1 }
    reject: u16 { TYPE = 1, CODE = 2 }
    flow: u16 { ORIGINAL = 1, REPLY = 2, ID = 12 }
    flow_message: u16 { GET = 1, DELETE = 2 }
    tuple: u16 { IP = 1, PROTOCOL = 2 }
    tuple_ip: u16 { V4_SOURCE = 1, V4_DESTINATION = 2, V6_SOURCE = 3, V6_DESTINATION = 4 }
    tuple_protocol: u16 { NUMBER = 1, SOURCE_PORT = 2, DESTINATION_PORT = 3 }
}

/// `NFT_DATA_VERDICT`: the "data type" of verdict maps.
pub(crate) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
