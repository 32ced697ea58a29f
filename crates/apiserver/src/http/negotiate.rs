//! In which form the client wants its answer.

use fairway_objects::status::Status;

use fairway_objects::encode::protobuf;

/// How documents are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// The content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The object or list itself.
    Whole,
    /// `as=Table`, with the version asked for.
    Table(&'static str),
    /// `as=PartialObjectMetadata` or `PartialObjectMetadataList`.
    Metadata,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// How documents are written.
    pub media: Media,
    /// The content.
    pub shape: Shape,
}

impl Form {
    /// Plain JSON.
    pub const JSON: Self = Self { media: Media::Json, shape: Shape::Whole };

    /// The value of Content-Type.
    pub fn content_type(self) -> &'static str {
        match self.media {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => protobuf::MEDIA_TYPE,
        }
    }

    /// The value of Content-Type of a watch.
    pub fn stream_content_type(self) -> &'static str {
        match self.media {
            Media::Protobuf => protobuf::STREAM_MEDIA_TYPE,
            Media::Json | Media::Yaml => self.content_type(),
        }
    }
}

/// Which discovery document the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
    /// APIVersions, APIGroupList.
    Legacy,
}

impl Discovery {
    /// The value of Content-Type: exactly the version that was matched.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            Self::Legacy => "application/json",
        }
    }
}

/// One alternative of an Accept header.
struct Alternative<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Alternative<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// The alternatives, best first; of equal ones the earlier.
fn alternatives(accept: &str) -> Vec<Alternative<'_>> {
    let mut all: Vec<Alternative<'_>> = accept
        .split(',')
        .filter_map(|text| {
            let mut parts = text.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?;
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let quality = parameters.iter().find(|(name, _)| *name == "q");
            let quality = quality.and_then(|(_, value)| value.parse().ok()).unwrap_or(1.0);
            Some(Alternative { media, parameters, quality })
        })
        .collect();
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    all
}

/// What kinds of Kubernetes itself are served as; custom resources have no messages, so nothing but the first two.
const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// Chooses the form of an object, list or watch. An absent header means JSON. `custom`: it is one of a custom resource.
pub fn object(accept: Option<&str>, custom: bool) -> Result<Form, Status> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Ok(Form::JSON) };
    let has_message = |form: &Form| {
        form.media != Media::Protobuf
            || form.shape == Shape::Metadata
            || (form.shape == Shape::Whole && !custom)
    };
    let accepted = if custom { &ACCEPTED[..2] } else { &ACCEPTED[..] };
    let mut forms = alternatives(accept).into_iter().filter_map(|alternative| form(&alternative));
    forms.find(has_message).ok_or_else(|| Status::not_acceptable(accepted))
}

/// Whether a Status is best written as protobuf.
pub fn prefers_protobuf(accept: Option<&str>) -> bool {
    object(accept, false).is_ok_and(|form| form.media == Media::Protobuf)
}

fn form(alternative: &Alternative<'_>) -> Option<Form> {
    let media = match alternative.media {
        "application/json" | "application/*" | "*/*" => Media::Json,
        "application/yaml" => Media::Yaml,
        protobuf::MEDIA_TYPE => Media::Protobuf,
        _ => return None,
    };
    let group = alternative.parameter("g");
    let shape = match (alternative.parameter("as"), alternative.parameter("v")) {
        ("", _) => Shape::Whole,
        ("Table", "v1") if group == "meta.k8s.io" => Shape::Table("v1"),
        ("Table", "v1beta1") if group == "meta.k8s.io" => Shape::Table("v1beta1"),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "v1") if group == "meta.k8s.io" => {
            Shape::Metadata
        }
        _ => return None,
    };
    Some(Form { media, shape })
}

/// Chooses the discovery document.
pub fn discovery(accept: Option<&str>) -> Discovery {
    let matched =
        |alternative: &Alternative<'_>| match (alternative.parameter("as"), alternative.parameter("v")) {
            ("APIGroupDiscoveryList", "v2") => Some(Discovery::V2),
            ("APIGroupDiscoveryList", "v2beta1") => Some(Discovery::V2Beta1),
            ("", _) if matches!(alternative.media, "application/json" | "*/*") => Some(Discovery::Legacy),
            _ => None,
        };
    alternatives(accept.unwrap_or_default()).iter().find_map(matched).unwrap_or(Discovery::Legacy)
}

/// The media type of OpenAPI v2 in protobuf, if the client prefers it to JSON: clients read nothing else when they ask for it. They may
/// ask by an older spelling that is no media type; the answer has the newer one, for the older ends in an error when they parse it.
pub fn swagger_protobuf(accept: Option<&str>) -> Option<&'static str> {
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    const OLDER: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let alternatives = alternatives(accept?);
    let mut known = alternatives.iter().filter_map(|alternative| match alternative.media {
        "application/json" | "*/*" => Some(None),
        PROTOBUF | OLDER => Some(Some(PROTOBUF)),
        _ => None,
    });
    known.next().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOBUF: Form = Form { media: Media::Protobuf, shape: Shape::Whole };

    #[test]
    fn the_first_servable_alternative_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let cases = [
            (None, Ok(Form::JSON)),
            (Some("*/*"), Ok(Form::JSON)),
            (Some("application/vnd.kubernetes.protobuf,application/json"), Ok(PROTOBUF)),
            (Some("application/vnd.kubernetes.protobuf;stream=watch, */*"), Ok(PROTOBUF)),
            (
                Some("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json"),
                Ok(Form::JSON),
            ),
            (
                Some("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
                Ok(Form { media: Media::Protobuf, shape: Shape::Metadata }),
            ),
            (Some(table), Ok(Form { media: Media::Json, shape: Shape::Table("v1") })),
            (Some("application/json;as=Table;v=v9;g=meta.k8s.io,application/json"), Ok(Form::JSON)),
            (
                Some("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
                Ok(Form { media: Media::Json, shape: Shape::Metadata }),
            ),
            (Some("application/yaml"), Ok(Form { media: Media::Yaml, shape: Shape::Whole })),
            (
                Some("application/json;q=0.5,application/yaml"),
                Ok(Form { media: Media::Yaml, shape: Shape::Whole }),
            ),
            (Some("text/html"), Err(406)),
        ];
        for (accept, want) in cases {
            assert_eq!(object(accept, false).map_err(|status| status.code), want, "{accept:?}");
        }
    }

    #[test]
    fn custom_resources_have_no_messages() {
        let both = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(object(Some(both), true).unwrap(), Form::JSON);
        let refused = object(Some("application/vnd.kubernetes.protobuf"), true).unwrap_err();
        assert_eq!(refused.code, 406);
        assert!(!refused.message.contains("protobuf"), "{refused}");
    }

    #[test]
    fn discovery_is_the_version_asked_for() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let v2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert_eq!(discovery(Some(&format!("{v2},{v2beta1},application/json"))), Discovery::V2);
        assert_eq!(discovery(Some(&format!("{v2beta1},application/json"))), Discovery::V2Beta1);
        assert_eq!(discovery(Some("application/json, */*")), Discovery::Legacy);
        assert_eq!(discovery(None), Discovery::Legacy);
    }

    #[test]
    fn openapi_v2_comes_as_the_client_can_read_it() {
        let new = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        let old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        assert_eq!(swagger_protobuf(Some(new)), Some(new));
        assert_eq!(swagger_protobuf(Some(&format!("{old},application/json"))), Some(new));
        assert_eq!(swagger_protobuf(Some(&format!("application/json, {new}"))), None);
        assert_eq!(swagger_protobuf(Some("*/*")), None);
        assert_eq!(swagger_protobuf(None), None);
    }
}
