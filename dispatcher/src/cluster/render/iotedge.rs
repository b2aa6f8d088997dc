//! An Azure IoT Edge deployment manifest, and the files that the device must have for it.

use serde_json::{Value, json};

use super::{File, about, config_files, image, only};
use crate::cluster::Error;
use crate::cluster::plan::{FOLDER, HTTP_PORT, SECRETS, USER, memory};
use crate::domain::service::{PullPolicy, Service};

/// Longest text of one key of a module's twin; longer ones go on in `createOptions01` and so on.
const MAX_TWIN_TEXT: usize = 512;
/// The folder of a service's files on the device.
const DEVICE_FOLDER: &str = "/etc/muster/services";

/// The service as `deployment.json`, and the files for `/etc/muster/services/NAME` on the device: a manifest is stored
/// in the clear, so that no secret is in it.
pub fn iotedge(service: &Service) -> Result<Vec<File>, Error> {
    let revision = only(service, "IoT Edge")?;
    let folder = format!("{DEVICE_FOLDER}/{}", service.name);
    let files = config_files(service, revision);
    let mut binds =
        vec![format!("{folder}/serve.toml:{FOLDER}/serve.toml:ro"), format!("{folder}/secrets:{SECRETS}:ro")];
    if revision.image.is_none() {
        binds.push(format!("{folder}/root.json:{FOLDER}/root.json:ro"));
        binds.push(format!("muster-{}:/var/lib/muster", service.name));
    }
    let labels: serde_json::Map<String, Value> =
        about(service, revision).into_iter().map(|(k, v)| (k.into(), json!(v))).collect();
    let memory = memory(service, revision);
    let port = format!("{HTTP_PORT}/tcp");
    let options = json!({
        "Cmd": ["serve", "--file", format!("{FOLDER}/serve.toml")],
        "User": format!("{USER}:{USER}"),
        "Labels": labels,
        "ExposedPorts": { port.as_str(): {} },
        "HostConfig": {
            "Binds": binds,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": true,
            "Tmpfs": { "/tmp": "size=64m" },
            "Memory": memory.limit.unwrap_or(memory.request),
            "NanoCpus": service.settings.cpu.limit.unwrap_or_default().saturating_mul(1_000_000),
            "PortBindings": { port.as_str(): [{ "HostPort": HTTP_PORT.to_string() }] },
        },
    });
    let mut settings = json!({ "image": image(service, revision) });
    for (index, part) in pieces(&options.to_string()).into_iter().enumerate() {
        let key = if index == 0 { "createOptions".to_owned() } else { format!("createOptions{index:02}") };
        settings[key] = json!(part);
    }
    let env = service.settings.env.iter().map(|(name, value)| (name.clone(), json!({ "value": value })));
    let pull = if super::plan::target(service).image_pull_policy == PullPolicy::Never { "never" } else { "on-create" };
    let module = json!({
        "type": "docker", "version": revision.version.to_string(), "status": "running", "restartPolicy": "always",
        "startupOrder": 1, "imagePullPolicy": pull, "env": Value::Object(env.collect()), "settings": settings,
    });
    let system = |image: &str, extra: Value| {
        let mut module = json!({ "type": "docker", "settings": { "image": image } });
        for (key, value) in extra.as_object().into_iter().flatten() {
            module[key] = value.clone();
        }
        module
    };
    let manifest = json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": {
            "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": { "minDockerVersion": "v1.25" } },
            "systemModules": {
                "edgeAgent": system("mcr.microsoft.com/azureiotedge-agent:1.5", json!({})),
                "edgeHub": system("mcr.microsoft.com/azureiotedge-hub:1.5", json!({ "status": "running", "restartPolicy": "always" })),
            },
            "modules": { service.name.as_str(): module },
        } },
        "$edgeHub": { "properties.desired": {
            "schemaVersion": "1.1", "routes": {}, "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 },
        } },
    } });
    let text = format!("{manifest:#}\n");
    let mut all = vec![File { path: "deployment.json".into(), text, secret: false }];
    all.extend(files.into_iter().map(|file| File { path: format!("device/{}", file.path), ..file }));
    Ok(all)
}

/// `text` in pieces that a twin can hold, cut between characters.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for c in text.chars() {
        if let Some(last) = pieces.last_mut()
            && last.len() + c.len_utf8() <= MAX_TWIN_TEXT
        {
            last.push(c);
        } else {
            pieces.push(c.to_string());
        }
    }
    pieces
}
