//! A systemd unit for a machine without containers.

use super::{File, config_files, only};
use crate::cluster::Error;
use crate::cluster::plan::{FOLDER, SECRETS, grace_seconds, memory};
use crate::domain::service::Service;

/// The service as `muster-NAME.service`, and the files for `/etc/muster/services/NAME`. A bundle that is not fetched
/// belongs into the folder `bundle` beside them.
pub fn systemd(service: &Service) -> Result<Vec<File>, Error> {
    let revision = only(service, "systemd")?;
    let folder = format!("/etc/muster/services/{}", service.name);
    let memory = memory(service, revision);
    let mut lines = vec![
        "[Unit]".to_owned(),
        format!("Description=Muster service {}: {} version {}", service.name, revision.model, revision.version),
        "After=network-online.target".into(),
        "Wants=network-online.target".into(),
        "StartLimitIntervalSec=0".into(),
        String::new(),
        "[Service]".into(),
        format!("ExecStart=/usr/bin/muster-agent serve --file {FOLDER}/serve.toml"),
        "User=muster".into(),
        "Group=muster".into(),
        "Restart=always".into(),
        "RestartSec=2".into(),
        // A wrong configuration does not mend itself.
        "RestartPreventExitStatus=64 78".into(),
        format!("TimeoutStopSec={}", grace_seconds(service)),
        format!("MemoryMax={}", memory.limit.unwrap_or(memory.request)),
        format!("BindReadOnlyPaths={folder}/secrets:{SECRETS}"),
        format!("BindReadOnlyPaths={folder}/serve.toml:{FOLDER}/serve.toml"),
    ];
    lines.extend(service.settings.cpu.limit.map(|cpu| format!("CPUQuota={}%", cpu.div_ceil(10))));
    if revision.image.is_none() {
        lines.push(format!("BindReadOnlyPaths={folder}/root.json:{FOLDER}/root.json"));
        lines.push(format!("StateDirectory=muster-{}", service.name));
        lines.push(format!("BindPaths=/var/lib/muster-{}:/var/lib/muster", service.name));
    } else {
        lines.push(format!("BindReadOnlyPaths={folder}/bundle:/bundle"));
    }
    lines.extend(service.settings.env.iter().map(|(name, value)| format!("Environment=\"{name}={}\"", escaped(value))));
    let hardening = [
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectControlGroups=yes",
        "ProtectClock=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "UMask=0077",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ];
    lines.extend(hardening.map(str::to_owned));
    let text = lines.join("\n") + "\n";
    let mut files = vec![File { path: format!("muster-{}.service", service.name), text, secret: false }];
    files.extend(
        config_files(service, revision).into_iter().map(|file| File { path: format!("etc/{}", file.path), ..file }),
    );
    Ok(files)
}

/// A value as systemd reads it between double quotes: `%` starts a specifier, `$` is plain there.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' | '"' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            other => text.push(other),
        }
    }
    text
}
