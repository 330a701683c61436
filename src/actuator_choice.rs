//! Which actuator an agent sets power limits with, and the options it needs.

use anyhow::{Context, bail};
use heliostat_collector::CapActuator;
use heliostat_collector::actuate::ipmi::IpmiAddress;
use heliostat_collector::actuate::redfish::{BmcAddress, Scope, Trust, plain_uuid};
use heliostat_collector::actuate::{
    BmcCredentials, DryRun, HwmonActuator, IpmiActuator, Paced, RedfishActuator, credentials,
};
use heliostat_collector::source::nvml::NvmlSource;
use heliostat_models::{Site, Watts};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Linux shows its devices.
const SYSFS: &str = "/sys";
/// This node's own management controller.
const LOCAL_BMC: &str = "/dev/ipmi0";

/// What sets power limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ActuatorName {
    /// NVIDIA's driver: each GPU
    Nvml,
    /// The amdgpu driver's hwmon files: each AMD GPU
    Hwmon,
    /// The management controller over Redfish: each GPU
    Redfish,
    /// The management controller over Redfish: the node as a whole
    RedfishNode,
    /// The management controller over IPMI's DCMI commands: the node as a whole
    Ipmi,
    /// Nothing: this agent caps no device
    None,
}

/// The agent's options for its actuator.
#[derive(Debug, clap::Args)]
pub struct ActuatorArgs {
    /// What to set power limits with; nvml where that is among the sources, else none
    #[arg(long, value_name = "NAME", help_heading = "Power limits")]
    actuator: Option<ActuatorName>,
    /// Verify leased caps and say what would be set, but set nothing
    #[arg(long, help_heading = "Power limits")]
    pub dry_run: bool,
    /// How often to read limits back and set them again where somebody else raised them, like 1s; else at every sample, from a management controller every 15s
    #[arg(long, value_name = "SPAN", help_heading = "Power limits", value_parser = crate::agent::span)]
    limits_every: Option<Duration>,
    /// The node's management controller: https://HOST[:PORT] for Redfish; HOST[:PORT] or a device file for IPMI, by default /dev/ipmi0
    #[arg(long, value_name = "ADDRESS", help_heading = "Power limits")]
    bmc: Option<String>,
    /// The system to limit, where a management controller serves several
    #[arg(long, value_name = "ID", help_heading = "Power limits")]
    bmc_system: Option<String>,
    /// The SHA-256 fingerprint of the management controller's certificate
    #[arg(long, value_name = "HEX", help_heading = "Power limits")]
    bmc_cert_sha256: Option<String>,
    /// Authorities (PEM) that vouch for the management controller's certificate
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Power limits",
        conflicts_with = "bmc_cert_sha256"
    )]
    bmc_ca: Option<PathBuf>,
    /// User and password of the management controller, two lines that only their owner may read; else the environment's HELIOSTAT_BMC_USER and HELIOSTAT_BMC_PASSWORD
    #[arg(long, value_name = "FILE", help_heading = "Power limits")]
    bmc_credentials: Option<PathBuf>,
}

/// What the choice depends on beside its options.
pub struct Circumstances<'a> {
    /// The site.
    pub site: &'a Site,
    /// The node's index in it.
    pub node: usize,
    /// The open NVIDIA driver, if it is a source.
    pub nvml: Option<&'a NvmlSource>,
    /// The agent's own directory.
    pub directory: &'a Path,
}

impl ActuatorArgs {
    /// Opens the actuator that is asked for; `None` where this agent caps nothing.
    pub fn open(&self, at: &Circumstances<'_>) -> anyhow::Result<Option<Box<dyn CapActuator>>> {
        let name = self.actuator.unwrap_or(match at.nvml {
            Some(_) => ActuatorName::Nvml,
            None => ActuatorName::None,
        });
        let node = &at.site.nodes[at.node];
        let actuator: Box<dyn CapActuator> = match name {
            ActuatorName::None => return Ok(None),
            ActuatorName::Nvml => match at.nvml {
                Some(nvml) => Box::new(nvml.actuator()),
                None => bail!("--actuator nvml needs nvml among --sources"),
            },
            ActuatorName::Hwmon => {
                let hwmon = HwmonActuator::open(Path::new(SYSFS), &node.id)?;
                if hwmon.count() != node.devices.len() {
                    tracing::warn!(
                        configured = node.devices.len(),
                        found = hwmon.count(),
                        "this node has another number of AMD GPUs with a power limit than the site's configuration says"
                    );
                }
                Box::new(hwmon)
            }
            ActuatorName::Redfish => {
                // The driver counts in PCI order, the controller in its own: UUIDs go between.
                let known = at.nvml.map(NvmlSource::devices).unwrap_or_default();
                if at.nvml.is_some() && known.is_empty() {
                    bail!(
                        "the NVIDIA driver tells no GPU's UUID, so that it is not known which of Redfish's GPUs is which; take nvml out of --sources, or limit through --actuator redfish-node"
                    );
                }
                let names = (known.into_iter())
                    .map(|d| (plain_uuid(&d.uuid), d.device))
                    .collect();
                Box::new(self.redfish(at, Scope::Gpus { names })?)
            }
            ActuatorName::RedfishNode => {
                let range = power_range(at.site, at.node);
                Box::new(self.redfish(at, Scope::Node { range })?)
            }
            ActuatorName::Ipmi => {
                let address = IpmiAddress::new(self.bmc.as_deref().unwrap_or(LOCAL_BMC));
                let range = power_range(at.site, at.node);
                let ipmi =
                    IpmiActuator::new(&address, self.credentials()?, &node.id, range, at.directory);
                Box::new(ipmi.context("how power limits were found cannot be read")?)
            }
        };
        let actuator: Box<dyn CapActuator> = match self.limits_every {
            Some(every) => Box::new(Paced::new(actuator, every)),
            None => actuator,
        };
        Ok(Some(match self.dry_run {
            true => Box::new(DryRun::new(actuator)),
            false => actuator,
        }))
    }

    fn redfish(&self, at: &Circumstances<'_>, scope: Scope) -> anyhow::Result<RedfishActuator> {
        let Some(address) = &self.bmc else {
            bail!(
                "Redfish needs the address of the node's management controller; give it with --bmc, like --bmc https://10.0.0.5"
            );
        };
        let trust = match (&self.bmc_cert_sha256, &self.bmc_ca) {
            (Some(fingerprint), _) => Some(Trust::fingerprint(fingerprint)?),
            (None, Some(file)) => Some(Trust::Authorities(file.clone())),
            (None, None) => None,
        };
        let address = BmcAddress::new(address, trust)?;
        let node = &at.site.nodes[at.node].id;
        let system = self.bmc_system.clone();
        let credentials = self.credentials()?;
        let actuator =
            RedfishActuator::new(&address, credentials, node, system, scope, at.directory)?;
        Ok(actuator)
    }

    fn credentials(&self) -> anyhow::Result<Option<BmcCredentials>> {
        if let Some(file) = &self.bmc_credentials {
            return Ok(Some(BmcCredentials::from_file(file)?));
        }
        let variable = |name| std::env::var(name).ok();
        Ok(BmcCredentials::from_variables(
            variable(credentials::USER_VARIABLE),
            variable(credentials::PASSWORD_VARIABLE),
        )?)
    }
}

/// Least and most that a node draws with its devices at their lowest and highest
/// limits: between them a limit of the node as a whole makes sense.
fn power_range(site: &Site, node: usize) -> (Watts, Watts) {
    let node = &site.nodes[node];
    let devices = &site.devices[node.devices.clone()];
    let least: Watts = devices.iter().map(|d| d.min_cap).sum();
    let most: Watts = devices.iter().map(|d| d.max_cap).sum();
    (node.overhead + least, node.overhead + most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ActuatorArgs,
    }

    fn site() -> Site {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("site-configs/demo.toml");
        crate::files::load_site(&file).unwrap()
    }

    fn open(line: &[&str]) -> anyhow::Result<Option<Box<dyn CapActuator>>> {
        let words = [&["agent"], line].concat();
        let directory = tempfile::tempdir().unwrap();
        let site = site();
        Line::try_parse_from(words)?.args.open(&Circumstances {
            site: &site,
            node: 0,
            nvml: None,
            directory: directory.path(),
        })
    }

    fn fault(line: &[&str]) -> String {
        match open(line) {
            Ok(_) => panic!("{line:?} was taken"),
            Err(error) => error.to_string(),
        }
    }

    const PIN: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

    #[test]
    fn nothing_is_capped_without_a_driver_or_a_choice() {
        assert!(open(&[]).unwrap().is_none());
        assert!(open(&["--dry-run"]).unwrap().is_none());
        assert!(open(&["--actuator", "none"]).unwrap().is_none());
    }

    #[test]
    fn management_controllers_are_chosen_with_what_they_need() {
        for line in [
            &["--actuator", "ipmi"][..],
            &["--actuator", "ipmi", "--bmc", "127.0.0.1:1"],
            &["--actuator", "redfish", "--bmc", "http://127.0.0.1:1"],
            &[
                "--actuator",
                "redfish-node",
                "--bmc",
                "https://127.0.0.1:1",
                "--bmc-cert-sha256",
                PIN,
            ],
        ] {
            let mut actuator = open(line).unwrap().unwrap();
            assert!(actuator.writes(), "{line:?}");
            // Nobody is there, and that is no reason not to start.
            assert_eq!(actuator.devices(), [], "{line:?}");
        }
        let dry = open(&["--actuator", "ipmi", "--dry-run"]).unwrap().unwrap();
        assert!(!dry.writes());
        // A controller is asked less often than a driver, unless one says otherwise.
        let pace = |line: &[&str]| open(line).unwrap().unwrap().look_every();
        assert_eq!(pace(&["--actuator", "ipmi"]), Duration::from_secs(15));
        let own = ["--actuator", "ipmi", "--limits-every", "2m"];
        assert_eq!(pace(&own), Duration::from_secs(120));
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        assert!(fault(&["--actuator", "nvml"]).contains("--sources"));
        assert!(fault(&["--actuator", "redfish"]).contains("--bmc https://"));
        let far = ["--actuator", "redfish", "--bmc", "http://10.0.0.5"];
        assert!(fault(&far).contains("in the clear"));
        let unknown = ["--actuator", "redfish", "--bmc", "https://10.0.0.5"];
        assert!(fault(&unknown).contains("--bmc-cert-sha256"));
        let pin = [&unknown[..], &["--bmc-cert-sha256", "00ff"]].concat();
        assert!(fault(&pin).contains("64 hexadecimal digits"));
        let file = ["--actuator", "ipmi", "--bmc-credentials", "/nonexistent"];
        assert!(fault(&file).contains("/nonexistent"));
        assert!(fault(&["--actuator", "hammer"]).contains("hwmon"));
    }

    #[test]
    fn a_nodes_range_is_that_of_its_devices_and_all_else() {
        let site = site();
        let node = &site.nodes[0];
        let (least, most) = power_range(&site, 0);
        let devices = node.devices.len() as f64;
        let first = &site.devices[node.devices.start];
        assert_eq!(least, node.overhead + first.min_cap * devices);
        assert_eq!(most, node.overhead + first.max_cap * devices);
    }
}
