//! Secrets of type `kubernetes.io/service-account-token`: filled with a token that holds as long as Secret and account do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_objects::document::{self, Document};
use serde_json::Value;

use crate::auth::guard::TokenError;
use crate::auth::token::{LegacyClaims, Reference};
use crate::server::Api;
use crate::store::{Collection, Key, State, Txn};

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// The account that a Secret asks a token for, if it is there and is the one meant.
fn account(state: &State, secret: &Value) -> Option<Reference> {
    let name = document::annotation(secret, NAME)?;
    let account = state
        .object(&Collection::new("", "serviceaccounts"), &Key::new(document::namespace(secret), name))?;
    let uid = account.metadata("uid");
    let meant = document::annotation(secret, UID).is_none_or(|wanted| wanted == uid);
    meant.then(|| Reference { name: name.to_owned(), uid: uid.to_owned() })
}

/// Fills a Secret of the type; others, and those whose account is not there, stay as they are.
pub(super) fn complete_secret(api: &Api, secret: &mut Value, state: &State) {
    if secret.text(&["type"]) != TYPE {
        return;
    }
    let Some(account) = account(state, secret) else { return };
    let (namespace, name) = (document::namespace(secret).to_owned(), document::name(secret).to_owned());
    let Ok(token) = api.keys.sign(&LegacyClaims::new(&namespace, &name, &account)) else { return };
    secret.put(&["metadata", "annotations", UID], account.uid);
    secret.put_default(&["data", "token"], STANDARD.encode(token));
    secret.put_default(&["data", "ca.crt"], STANDARD.encode(&api.authority_pem));
    secret.put_default(&["data", "namespace"], STANDARD.encode(namespace));
}

/// Whether Secret and account of a token are there, and the Secret holds this very token.
pub(crate) fn holds(state: &State, claims: &LegacyClaims, token: &str) -> Result<(), TokenError> {
    let gone = |kind, name: &str| TokenError::Gone { kind, name: name.to_owned() };
    let secret = state.object(&Collection::new("", "secrets"), &Key::new(&claims.namespace, &claims.secret));
    let secret = secret.filter(|secret| !document::is_terminating(secret.value()));
    let secret = secret.ok_or_else(|| gone("secret", &claims.secret))?.value();
    if secret.text(&["data", "token"]) != STANDARD.encode(token) {
        return Err(gone("secret", &claims.secret));
    }
    let found = account(state, secret).filter(|found| found.uid == claims.account_uid);
    found.map(drop).ok_or_else(|| gone("service account", &claims.account))
}

/// Fills Secrets whose account came later, and removes those whose account is gone.
pub(crate) fn settle_secrets(api: &Api, txn: &mut Txn) {
    let collection = Collection::new("", "secrets");
    let secrets = txn.state().objects(&collection);
    for (key, secret) in secrets.iter().filter(|(_, secret)| secret.value().text(&["type"]) == TYPE) {
        let secret = secret.value();
        if account(txn.state(), secret).is_none() {
            txn.remove(&collection, key);
        } else if !secret.has(&["data", "token"]) {
            let mut filled = secret.clone();
            complete_secret(api, &mut filled, txn.state());
            txn.put(&collection, key, filled);
        }
    }
}
