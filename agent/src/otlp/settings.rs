//! Where to export and how much: the document's `[otlp]`, and where it says nothing the variables of OpenTelemetry.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Uri};
use serde::{Deserialize, Serialize};

use super::Error;

/// How often metrics are sent unless told otherwise.
const INTERVAL: Duration = Duration::from_secs(60);
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLE: &str = "OTEL_TRACES_SAMPLER_ARG";
const SERVICE: &str = "OTEL_SERVICE_NAME";
const DISABLED: &str = "OTEL_SDK_DISABLED";

/// `[otlp]` of the document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The collector's address, e.g. `http://collector:4318`; `/v1/traces` and `/v1/metrics` are added to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What is sent along, such as a key of the collector's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// Of the requests that belong to no trace yet, the share that begins one; 1 for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// How often metrics are sent, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<u64>,
}

/// Headers by name. Their values may be secrets, so only the names are ever shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(pub BTreeMap<String, String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Settings {
    /// What has to be otherwise before this can be used, if anything.
    pub fn fault(&self) -> Option<String> {
        let endpoint = self.endpoint.as_deref().and_then(|text| endpoint_fault("otlp.endpoint", text));
        let headers = self.headers.as_ref().and_then(|headers| headers_fault("otlp.headers", headers));
        let sample = self.sample.and_then(|ratio| sample_fault("otlp.sample", ratio));
        let interval = (self.interval_s == Some(0)).then(|| "otlp.interval_s = 0: at least 1".to_owned());
        endpoint.or(headers).or(sample).or(interval)
    }
}

/// What is exported, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// The collector's address without a slash at its end.
    pub endpoint: String,
    /// What is sent along.
    pub headers: Headers,
    /// Of the requests that belong to no trace yet, the share that begins one.
    pub sample: f64,
    /// How often metrics are sent.
    pub interval: Duration,
    /// What all traces and metrics are marked with.
    pub resource: BTreeMap<String, String>,
}

impl Export {
    /// What `settings` and the variables ask for; none where neither names an endpoint.
    pub fn of(settings: Option<&Settings>, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        // An empty variable is as good as none, says OpenTelemetry.
        let variable = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if variable(DISABLED).is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        if let Some(fault) = settings.and_then(Settings::fault) {
            return Err(Error::Setting(fault));
        }
        let given = settings.cloned().unwrap_or_default();
        let endpoint = match (given.endpoint, variable(ENDPOINT)) {
            (Some(endpoint), _) => endpoint,
            (None, Some(endpoint)) => {
                none_of(endpoint_fault(ENDPOINT, &endpoint))?;
                if let Some(other) = variable(PROTOCOL).filter(|protocol| protocol != "http/protobuf") {
                    tracing::warn!(%endpoint, "{PROTOCOL} asks for {other}; http/protobuf is sent, usually to port 4318");
                }
                endpoint
            }
            (None, None) if settings.is_some() => {
                return Err(Error::Setting(format!("[otlp] needs `endpoint`, or the variable {ENDPOINT}")));
            }
            (None, None) => return Ok(None),
        };
        let headers = match (given.headers, variable(HEADERS)) {
            (Some(headers), _) => headers,
            (None, Some(text)) => Headers(pairs(HEADERS, &text)?),
            (None, None) => Headers::default(),
        };
        none_of(headers_fault(HEADERS, &headers))?;
        let sample = match (given.sample, variable(SAMPLE)) {
            (Some(ratio), _) => ratio,
            (None, Some(text)) => text.parse().map_err(|_| Error::Setting(sample_text(SAMPLE, &text)))?,
            (None, None) => 1.0,
        };
        none_of(sample_fault(SAMPLE, sample))?;
        let mut resource = BTreeMap::from([
            ("service.name".to_owned(), "muster-agent".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        if let Some(text) = variable(RESOURCE) {
            resource.extend(pairs(RESOURCE, &text)?);
        }
        resource.extend(variable(SERVICE).map(|name| ("service.name".to_owned(), name)));
        let interval = given.interval_s.map_or(INTERVAL, Duration::from_secs);
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Some(Self { endpoint, headers, sample, interval, resource }))
    }
}

fn none_of(fault: Option<String>) -> Result<(), Error> {
    fault.map_or(Ok(()), |fault| Err(Error::Setting(fault)))
}

fn endpoint_fault(name: &str, text: &str) -> Option<String> {
    let is_good = text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none()
    });
    (!is_good).then(|| format!("{name} = {text:?} is no address of a collector, such as http://collector:4318"))
}

/// Names the header and not its value, which may be a secret.
fn headers_fault(name: &str, headers: &Headers) -> Option<String> {
    let is_bad = |(name, value): &(&String, &String)| {
        name.parse::<HeaderName>().is_err() || HeaderValue::from_str(value).is_err()
    };
    headers.0.iter().find(is_bad).map(|(header, _)| format!("{name}: {header:?} or its value is no header of HTTP"))
}

fn sample_fault(name: &str, ratio: f64) -> Option<String> {
    (!(0.0..=1.0).contains(&ratio)).then(|| sample_text(name, &ratio.to_string()))
}

fn sample_text(name: &str, text: &str) -> String {
    format!("{name} = {text} is no share of the requests: a number from 0 to 1")
}

/// `key=value,key=value` with percent-encoding, as W3C's Baggage has it. A fault is named without the values.
fn pairs(variable: &str, text: &str) -> Result<BTreeMap<String, String>, Error> {
    let fault = || Error::Setting(format!("{variable} is not of the form key=value,key=value with percent-encoding"));
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((decoded(key.trim())?, decoded(value.trim())?)).filter(|(key, _)| !key.is_empty())
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(|part| pair(part).ok_or_else(fault)).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.extend(hex::decode(digits).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: Option<&Settings>, variables: &[(&str, &str)]) -> Result<Option<Export>, String> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Export::of(settings, variable).map_err(|error| error.to_string())
    }

    fn to(endpoint: &str) -> Settings {
        Settings { endpoint: Some(endpoint.into()), ..Settings::default() }
    }

    #[test]
    fn nothing_is_exported_unless_somebody_says_where() {
        assert_eq!(of(None, &[]), Ok(None));
        assert_eq!(of(None, &[(ENDPOINT, " "), (SERVICE, "digits"), (SAMPLE, "x")]), Ok(None));
        assert_eq!(of(Some(&to("http://c:4318")), &[(DISABLED, "True")]), Ok(None));
    }

    #[test]
    fn the_variables_count_where_the_document_says_nothing() {
        let variables = [
            (ENDPOINT, "https://c.example:4318/"),
            (HEADERS, "authorization=Bearer%20abc, x-scope=one"),
            (RESOURCE, "service.name=other,deployment.environment.name=test"),
            (SERVICE, "digits"),
            (SAMPLE, "0.25"),
        ];
        let export = of(None, &variables).expect("good").expect("some");
        assert_eq!((export.endpoint.as_str(), export.sample), ("https://c.example:4318", 0.25));
        assert_eq!((export.headers.0["authorization"].as_str(), export.interval), ("Bearer abc", INTERVAL));
        assert_eq!(export.resource["service.name"], "digits");
        assert_eq!(export.resource["deployment.environment.name"], "test");
        let own = Settings {
            headers: Some(Headers::default()),
            sample: Some(0.5),
            interval_s: Some(7),
            ..to("http://own:4318/base")
        };
        let export = of(Some(&own), &variables).expect("good").expect("some");
        assert_eq!((export.endpoint.as_str(), export.sample), ("http://own:4318/base", 0.5));
        assert_eq!((export.headers, export.interval), (Headers::default(), Duration::from_secs(7)));
        assert_eq!(of(Some(&Settings::default()), &variables).expect("good").expect("some").sample, 0.25);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_secrets_are_not() {
        type Variables<'a> = &'a [(&'a str, &'a str)];
        let table: [(Settings, Variables, &str); 8] = [
            (Settings::default(), &[], "[otlp] needs `endpoint`"),
            (to("collector:4318"), &[], "otlp.endpoint"),
            (to("ftp://collector"), &[], "otlp.endpoint"),
            (Settings::default(), &[(ENDPOINT, "c")], ENDPOINT),
            (Settings { interval_s: Some(0), ..to("http://c") }, &[], "otlp.interval_s"),
            (to("http://c"), &[(SAMPLE, "most")], SAMPLE),
            (to("http://c"), &[(HEADERS, "secret")], HEADERS),
            (to("http://c"), &[(HEADERS, "a b=secret")], HEADERS),
        ];
        for (settings, variables, part) in table {
            let error = of(Some(&settings), variables).expect_err(part);
            assert!(error.contains(part) && !error.contains("secret"), "{error} does not say {part:?}");
        }
        let headers = Headers(BTreeMap::from([("authorization".into(), "secret".into())]));
        assert_eq!(format!("{headers:?}"), r#"{"authorization"}"#);
    }
}
