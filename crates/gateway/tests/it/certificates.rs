//! TLS: which certificate, which protocol, replaced while running.

use std::sync::{Arc, Mutex};

use fairway_model::SecretKey;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Client, Cluster, Endpoint, Fixture, world};

/// Takes every certificate and remembers it.
#[derive(Debug, Default)]
struct Remember(Mutex<Vec<u8>>);

impl ServerCertVerifier for Remember {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = end_entity.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A handshake; the certificate as DER with the stream.
async fn handshake(fixture: &Fixture, name: &str, alpn: &[&str]) -> (Vec<u8>, TlsStream<TcpStream>) {
    let seen = Arc::new(Remember::default());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(fixture.gateway.https()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let der = seen.0.lock().unwrap().clone();
    (der, stream)
}

fn secret(name: &str) -> (Vec<u8>, Arc<Secret>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let data = [
        ("tls.crt".to_owned(), ByteString(made.cert.pem().into_bytes())),
        ("tls.key".to_owned(), ByteString(made.signing_key.serialize_pem().into_bytes())),
    ];
    (made.cert.der().to_vec(), Arc::new(Secret { data: Some(data.into()), ..Secret::default() }))
}

#[test]
fn certificates_follow_the_server_name_and_are_replaced_while_running() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let mut cluster = Cluster::new().service("web", &[web.address]);
        for host in ["a.example", "*.example"] {
            cluster.put_ingress(host, &[("/", "web")], Some(host.trim_start_matches("*.")));
        }
        let (first, object) = secret("a.example");
        let (wild, wild_object) = secret("*.example");
        cluster.inputs.secrets.insert(SecretKey::new("ns", "a.example"), object);
        cluster.inputs.secrets.insert(SecretKey::new("ns", "example"), wild_object);
        let mut fixture = Fixture::start(cluster);
        assert_eq!(handshake(&fixture, "a.example", &[]).await.0, first);
        assert_eq!(handshake(&fixture, "b.example", &[]).await.0, wild);
        let (default, _) = handshake(&fixture, "other.test", &[]).await;
        assert!(default != first && default != wild);

        let (second, object) = secret("a.example");
        let (_, mut kept) = handshake(&fixture, "a.example", &[]).await;
        fixture.cluster.inputs.secrets.insert(SecretKey::new("ns", "a.example"), object);
        fixture.publish();
        assert_eq!(handshake(&fixture, "a.example", &[]).await.0, second);
        {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            kept.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut reply = String::new();
            let _ = kept.read_to_string(&mut reply).await;
            assert!(reply.starts_with("HTTP/1.1 200"), "connections go on: {reply}");
            assert!(reply.contains("\"x-forwarded-proto\":\"https\""), "{reply}");
            assert!(reply.contains("\"x-forwarded-port\":\"443\""), "{reply}");
        }
        fixture.cluster.inputs.secrets.clear();
        fixture.publish();
        assert_eq!(handshake(&fixture, "a.example", &[]).await.0, default, "a deleted Secret: the default");
    });
}

#[test]
fn http_2_is_negotiated_and_plain_requests_are_redirected() {
    world(|| async {
        let web = Endpoint::echo("10.244.1.2:8080").await;
        let mut cluster = Cluster::new().service("web", &[web.address]);
        cluster.put_ingress("a.example", &[("/", "web")], Some("a"));
        let (_, object) = secret("a.example");
        cluster.inputs.secrets.insert(SecretKey::new("ns", "a"), object);
        let fixture = Fixture::start(cluster);
        let (_, stream) = handshake(&fixture, "a.example", &["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://a.example/x").body(Full::<bytes::Bytes>::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);

        let mut plain = Client::http1(fixture.gateway.http()).await;
        let reply = plain.get("a.example", "/x/?q=1").await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("location").as_str()),
            (308, "https://a.example/x/?q=1")
        );
    });
}
