//! Names of objects, one type a kind: a Service's name cannot be passed where a pod's is wanted.

use std::fmt;
use std::sync::Arc;

macro_rules! namespaced {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// The namespace.
            pub namespace: Arc<str>,
            /// The name in it.
            pub name: Arc<str>,
        }

        impl $name {
            /// A key from its two parts.
            pub fn new(namespace: &str, name: &str) -> Self {
                Self { namespace: namespace.into(), name: name.into() }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }
    };
}

namespaced!(
    /// Names a Service; printed as `namespace/name`.
    ServiceKey
);
namespaced!(
    /// Names a pod; printed as `namespace/name`.
    PodKey
);
namespaced!(
    /// Names an Ingress; printed as `namespace/name`.
    IngressKey
);
namespaced!(
    /// Names a Secret; printed as `namespace/name`.
    SecretKey
);

/// Names a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(pub Arc<str>);

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
