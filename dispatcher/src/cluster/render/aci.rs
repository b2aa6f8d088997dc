//! Azure Container Instances: what `az container create --file` takes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{about, config_files, image, only, yaml};
use crate::cluster::Error;
use crate::cluster::plan::{FOLDER, HTTP_PORT, SECRETS, memory};
use crate::domain::service::Service;

/// The version of the API whose form this is.
const API_VERSION: &str = "2023-05-01";

/// What a container group has beside its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aci {
    /// The Azure region.
    pub location: String,
    /// The first part of its public name; none to have an address only.
    pub dns_label: Option<String>,
    /// The subnet's resource id: then it has no public address.
    pub subnet: Option<String>,
}

/// The service as a container group. It holds the key hashes and the token, which `az` sends as secret volumes.
pub fn aci(service: &Service, options: &Aci) -> Result<String, Error> {
    let revision = only(service, "Azure Container Instances")?;
    let (mut config, mut secrets) = (Map::new(), Map::new());
    for file in config_files(service, revision) {
        let volume = if file.secret { &mut secrets } else { &mut config };
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        volume.insert(name.to_owned(), json!(STANDARD.encode(file.text)));
    }
    let mut mounts = vec![
        json!({ "name": "config", "mountPath": FOLDER, "readOnly": true }),
        json!({ "name": "secrets", "mountPath": SECRETS, "readOnly": true }),
    ];
    let mut volumes =
        vec![json!({ "name": "config", "secret": config }), json!({ "name": "secrets", "secret": secrets })];
    if revision.image.is_none() {
        mounts.push(json!({ "name": "store", "mountPath": "/var/lib/muster" }));
        volumes.push(json!({ "name": "store", "emptyDir": {} }));
    }
    let memory = memory(service, revision);
    let mut resources =
        json!({ "requests": { "cpu": cores(service.settings.cpu.request), "memoryInGB": gigabytes(memory.request) } });
    if let Some(cpu) = service.settings.cpu.limit {
        resources["limits"] =
            json!({ "cpu": cores(cpu), "memoryInGB": gigabytes(memory.limit.unwrap_or(memory.request)) });
    }
    let env = service.settings.env.iter().map(|(name, value)| json!({ "name": name, "secureValue": value }));
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": HTTP_PORT, "scheme": "http" },
            "periodSeconds": period, "timeoutSeconds": 2, "failureThreshold": failures,
        })
    };
    let container = json!({ "name": service.name, "properties": {
        "image": image(service, revision),
        "command": ["muster-agent", "serve", "--file", format!("{FOLDER}/serve.toml")],
        "ports": [{ "port": HTTP_PORT, "protocol": "TCP" }],
        "environmentVariables": env.collect::<Vec<Value>>(),
        "resources": resources,
        "volumeMounts": mounts,
        "readinessProbe": probe("/v2/health/ready", 5, 3),
        "livenessProbe": probe("/healthz", 10, 31),
    } });
    let ports = json!([{ "port": HTTP_PORT, "protocol": "TCP" }]);
    let mut properties = json!({
        "osType": "Linux", "sku": "Standard", "restartPolicy": "Always",
        "containers": [container], "volumes": volumes,
        "ipAddress": { "type": if options.subnet.is_some() { "Private" } else { "Public" }, "ports": ports },
    });
    match (&options.subnet, &options.dns_label) {
        (Some(subnet), _) => properties["subnetIds"] = json!([{ "id": subnet }]),
        (None, Some(label)) => properties["ipAddress"]["dnsNameLabel"] = json!(label),
        (None, None) => {}
    }
    // Azure's tags may not hold a slash.
    let tags: Map<String, Value> =
        about(service, revision).into_iter().map(|(name, value)| (name.replace('/', "-"), json!(value))).collect();
    Ok(yaml(&json!({
        "apiVersion": API_VERSION, "type": "Microsoft.ContainerInstance/containerGroups",
        "name": service.name, "location": options.location, "tags": tags, "properties": properties,
    })))
}

/// Processors to a hundredth, at least one hundredth.
fn cores(millicores: u64) -> Value {
    hundredths(millicores.div_ceil(10))
}

/// Gigabytes to a tenth, rounded up: Azure counts no finer.
fn gigabytes(bytes: u64) -> Value {
    hundredths(bytes.div_ceil((1 << 30) / 10) * 10)
}

fn hundredths(count: u64) -> Value {
    if count.is_multiple_of(100) {
        json!(count / 100)
    } else {
        json!(u32::try_from(count).map_or(f64::MAX, f64::from) / 100.0)
    }
}
