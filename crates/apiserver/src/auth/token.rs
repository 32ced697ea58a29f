//! Service-account tokens: JSON Web Tokens (RFC 7519) signed by this server, bound to an account and perhaps to a pod.

use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{AUTHENTICATED, User};

/// Who signs, and the audience of tokens that name none.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Shortest life of a token, as in Kubernetes.
pub const LIFE_SECONDS_MIN: i64 = 600;
/// Life of a token that asks for none.
pub const LIFE_SECONDS_DEFAULT: i64 = 3600;
/// Longest life: a token that asks for more gets this.
pub const LIFE_SECONDS_MAX: i64 = 366 * 86400;

/// Signs and verifies.
pub struct Keys {
    signing: EncodingKey,
    verifying: DecodingKey,
    id: String,
    jwk: Jwk,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.id)
    }
}

/// An object that a token names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
}

/// The private claims of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Of the account and the pod.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// The pod, if the token dies with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret, if the token dies with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The node: of the pod, or what the token dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
}

/// All claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom.
    pub aud: Vec<String>,
    /// Until when, seconds since 1970.
    pub exp: i64,
    /// Since when.
    pub iat: i64,
    /// Not before.
    pub nbf: i64,
    /// By whom.
    pub iss: String,
    /// Unique id of the token.
    pub jti: String,
    /// The account, as a user name.
    pub sub: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub binding: Binding,
}

impl Claims {
    /// Claims of a new token.
    pub fn new(binding: Binding, audiences: Vec<String>, now_s: i64, life_s: i64) -> Self {
        Self {
            aud: audiences,
            exp: now_s + life_s,
            iat: now_s,
            nbf: now_s,
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{}:{}", binding.namespace, binding.serviceaccount.name),
            binding,
        }
    }

    /// The user that a token of these claims stands for.
    pub fn user(&self) -> User {
        let binding = &self.binding;
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", binding.namespace),
            AUTHENTICATED.to_owned(),
        ];
        let mut user = User {
            name: self.sub.clone(),
            uid: binding.serviceaccount.uid.clone(),
            groups: groups.into(),
            ..User::default()
        };
        let mut extra = |name: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]);
        };
        extra("credential-id", &format!("JTI={}", self.jti));
        if let Some(pod) = &binding.pod {
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        if let Some(node) = &binding.node {
            extra("node-name", &node.name);
            extra("node-uid", &node.uid);
        }
        user
    }
}

impl Keys {
    /// From an EC P-256 private key in PKCS #8 PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, jsonwebtoken::errors::Error> {
        let signing = EncodingKey::from_ec_pem(pem)?;
        let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256)?;
        let id = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { verifying: DecodingKey::from_jwk(&jwk)?, signing, id, jwk })
    }

    /// A signed token.
    pub fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing)
    }

    /// The claims of a token that we signed, that has begun, not ended, and is for one of `audiences`. Whether what it is bound to still
    /// exists is for the caller to see.
    pub fn verify(&self, token: &str, audiences: &[String]) -> Result<Claims, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.validate_nbf = true;
        Ok(jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)?.claims)
    }

    /// The public keys (RFC 7517).
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk]})
    }
}

/// The discovery document of the issuer (OpenID Connect Discovery 1.0 §3).
pub fn openid_configuration(server: &str) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{server}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
    }

    fn claims(now_s: i64, life_s: i64) -> Claims {
        let reference = |name: &str| Reference { name: name.to_owned(), uid: format!("{name}-uid") };
        let (serviceaccount, pod) = (reference("sa"), Some(reference("p")));
        let binding = Binding { namespace: "ns".to_owned(), serviceaccount, pod, secret: None, node: None };
        Claims::new(binding, vec![ISSUER.to_owned()], now_s, life_s)
    }

    fn now_s() -> i64 {
        jiff::Timestamp::now().as_second()
    }

    #[test]
    fn what_was_signed_is_verified_and_nothing_else() {
        let (keys, others) = (keys(), keys());
        let audiences = [ISSUER.to_owned()];
        let claims = claims(now_s(), 600);
        let token = keys.sign(&claims).unwrap();
        assert_eq!(keys.verify(&token, &audiences).unwrap(), claims);
        assert!(others.verify(&token, &audiences).is_err(), "another key");
        assert!(keys.verify(&token, &["vault".to_owned()]).is_err(), "another audience");
        let expired = keys.sign(&self::claims(now_s() - 1000, 600)).unwrap();
        assert!(keys.verify(&expired, &audiences).is_err(), "expired");
        assert!(keys.verify("a.b.c", &audiences).is_err(), "no token");
    }

    #[test]
    fn the_account_is_the_user() {
        let user = claims(0, 600).user();
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.service_account(), Some(("ns", "sa")));
        assert!(user.is_in("system:serviceaccounts:ns"));
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    }
}
