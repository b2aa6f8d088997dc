//! A compose file for one machine, with its configuration and its secrets beside it.

use serde_json::{Map, Value, json};

use super::{File, about, config_files, image, only, yaml};
use crate::cluster::Error;
use crate::cluster::plan::quantity::bytes;
use crate::cluster::plan::{FOLDER, HTTP_PORT, SECRETS, USER, grace_seconds, memory};
use crate::domain::service::{PullPolicy, Replicas, Service};

/// The service as `compose.yaml`, and the files that it names.
pub fn compose(service: &Service) -> Result<Vec<File>, Error> {
    let revision = only(service, "compose")?;
    let (mut configs, mut secrets) = (Map::new(), Map::new());
    let (mut config_mounts, mut secret_mounts) = (Vec::new(), Vec::new());
    let mut beside = Vec::new();
    for file in config_files(service, revision) {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path).to_owned();
        let (all, mounts, folder) = if file.secret {
            (&mut secrets, &mut secret_mounts, SECRETS)
        } else {
            (&mut configs, &mut config_mounts, FOLDER)
        };
        all.insert(name.clone(), json!({ "file": format!("./{}", file.path) }));
        mounts.push(json!({ "source": name, "target": format!("{folder}/{name}") }));
        beside.push(file);
    }
    let about: Map<String, Value> =
        about(service, revision).into_iter().map(|(name, value)| (name.into(), json!(value))).collect();
    let memory = memory(service, revision);
    let mut limits = json!({ "memory": memory.limit.unwrap_or(memory.request).to_string() });
    if let Some(cpu) = service.settings.cpu.limit {
        limits["cpus"] = json!(cores(cpu));
    }
    let mut server = json!({
        "image": image(service, revision),
        "pull_policy": pull_policy(super::plan::target(service).image_pull_policy),
        "command": ["serve", "--file", format!("{FOLDER}/serve.toml")],
        "user": format!("{USER}:{USER}"),
        "read_only": true,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp:size=64m"],
        "restart": "unless-stopped",
        "stop_grace_period": format!("{}s", grace_seconds(service)),
        "labels": about,
        "configs": config_mounts,
        "secrets": secret_mounts,
        "ports": [{ "target": HTTP_PORT, "published": port(service), "protocol": "tcp" }],
        "deploy": { "replicas": replicas(service.settings.replicas), "resources": {
            "limits": limits,
            "reservations": { "cpus": cores(service.settings.cpu.request), "memory": bytes(memory.request).replace('i', "").to_lowercase() },
        } },
    });
    if !service.settings.env.is_empty() {
        // A dollar sign would be read as a variable.
        let env = service.settings.env.iter().map(|(name, value)| (name.clone(), json!(value.replace('$', "$$"))));
        server["environment"] = Value::Object(env.collect());
    }
    let mut document =
        json!({ "name": service.name, "services": { "server": server }, "configs": configs, "secrets": secrets });
    if revision.image.is_none() {
        document["services"]["server"]["volumes"] =
            json!([{ "type": "volume", "source": "store", "target": "/var/lib/muster" }]);
        document["volumes"] = json!({ "store": {} });
    }
    let mut files = vec![File { path: "compose.yaml".into(), text: yaml(&document), secret: false }];
    files.extend(beside);
    Ok(files)
}

/// Several replicas cannot publish one port: each then takes the next of a range.
fn port(service: &Service) -> String {
    match replicas(service.settings.replicas) {
        1 => HTTP_PORT.to_string(),
        n => format!("{HTTP_PORT}-{}", u32::from(HTTP_PORT) + n - 1),
    }
}

/// Compose scales nothing by itself: the fewest.
fn replicas(replicas: Replicas) -> u32 {
    match replicas {
        Replicas::Fixed(n) => n,
        Replicas::Auto { min, .. } => min,
    }
}

fn cores(millicores: u64) -> String {
    format!("{}.{:03}", millicores / 1000, millicores % 1000)
}

fn pull_policy(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "always",
        PullPolicy::IfNotPresent => "missing",
        PullPolicy::Never => "never",
    }
}
