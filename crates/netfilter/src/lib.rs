//! Typed nftables objects and transactions over netlink.
