//! The bill of materials: CycloneDX 1.5, of what `cargo metadata` tells and of the guest bundle.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::date::Date;
use super::packages::Package;
use super::sources::{Binary, Sources};

/// The parts of CycloneDX that are told, named as it names them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata {
    timestamp: String,
    component: Component,
}

#[derive(Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref")]
    reference: String,
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    licenses: [Licence; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Licence {
    expression: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: BTreeSet<String>,
}

/// The document for this version of pyro.
pub(super) fn document(
    version: &str,
    date: Date,
    packages: &[Package],
    programs: &[&str],
    sources: &Sources,
) -> Result<String> {
    let works = [component_of_binary(&sources.kernel), component_of_binary(&sources.libc)];
    let root = Component {
        kind: "application",
        reference: format!("pyro@{version}"),
        name: "pyro".to_owned(),
        version: version.to_owned(),
        hashes: Vec::new(),
        licenses: [Licence { expression: "Apache-2.0".to_owned() }],
        purl: None,
    };
    let is_program = |package: &&Package| programs.contains(&package.name.as_str());
    let contained = packages
        .iter()
        .filter(is_program)
        .map(Package::reference)
        .chain(works.iter().map(|work| work.reference.clone()));
    let mut dependencies =
        vec![Dependency { reference: root.reference.clone(), depends_on: contained.collect() }];
    dependencies.extend(packages.iter().map(|package| Dependency {
        reference: package.reference(),
        depends_on: package.dependencies.clone(),
    }));
    let mut bom = Bom {
        bom_format: "CycloneDX",
        spec_version: "1.5",
        serial_number: String::new(),
        version: 1,
        metadata: Metadata { timestamp: date.rfc3339(), component: root },
        components: packages.iter().map(component_of_package).chain(works).collect(),
        dependencies,
    };
    bom.serial_number = serial_number(&serde_json::to_vec(&bom)?);
    Ok(serde_json::to_string_pretty(&bom)? + "\n")
}

fn component_of_package(package: &Package) -> Component {
    let hash = |checksum: &String| Hash { alg: "SHA-256", content: checksum.clone() };
    Component {
        kind: "library",
        reference: package.reference(),
        name: package.name.clone(),
        version: package.version.clone(),
        hashes: package.checksum.iter().map(hash).collect(),
        licenses: [Licence { expression: package.licence.clone() }],
        // A name in the registry; our own crates are in none.
        purl: (!package.is_ours())
            .then(|| format!("pkg:cargo/{}@{}", package.name, escaped(&package.version))),
    }
}

fn component_of_binary(binary: &Binary) -> Component {
    let version = escaped(&binary.source_version);
    Component {
        kind: if binary.name == "linux" { "operating-system" } else { "library" },
        reference: format!("{}@{}", binary.name, binary.version),
        name: binary.name.to_owned(),
        version: binary.version.clone(),
        hashes: Vec::new(),
        licenses: [Licence { expression: binary.licence.to_owned() }],
        purl: Some(format!("pkg:deb/debian/{}@{version}", binary.source_package)),
    }
}

/// A version as package URLs have it.
fn escaped(version: &str) -> String {
    version.replace('+', "%2B")
}

/// A UUID (of the form that leaves its bits to its maker) from the contents, so that equal documents have equal names.
fn serial_number(contents: &[u8]) -> String {
    let mut bytes = Sha256::digest(contents);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(&bytes[..16]);
    format!("urn:uuid:{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use cyclonedx_bom::prelude::{Bom, SpecVersion, Validate};

    use super::*;

    fn package(name: &str, version: &str, checksum: Option<&str>, needs: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: "MIT OR Apache-2.0".to_owned(),
            directory: PathBuf::new(),
            checksum: checksum.map(str::to_owned),
            dependencies: needs.iter().map(|need| (*need).to_owned()).collect(),
        }
    }

    fn packages() -> Vec<Package> {
        vec![
            package("pyro-cli", "0.1.0", None, &["zstd-sys@2.0.1+zstd.1.5"]),
            package("zstd-sys", "2.0.1+zstd.1.5", Some(&"ab".repeat(32)), &[]),
        ]
    }

    fn made(packages: &[Package]) -> String {
        document("0.1.0", Date(1_700_000_000), packages, &["pyro-cli"], &Sources::for_tests()).unwrap()
    }

    #[test]
    fn another_implementation_takes_it_as_valid_cyclonedx() {
        let text = made(&packages());
        let bom = Bom::parse_from_json_v1_5(text.as_bytes()).unwrap();
        let result = bom.validate_version(SpecVersion::V1_5);
        assert!(result.passed(), "{result:?}");
        let components = bom.components.unwrap().0;
        let purls: Vec<String> =
            components.iter().filter_map(|c| Some(c.purl.as_ref()?.to_string())).collect();
        assert_eq!(
            purls,
            [
                "pkg:cargo/zstd-sys@2.0.1%2Bzstd.1.5",
                "pkg:deb/debian/linux-source-6.12@6.12.9-1",
                "pkg:deb/debian/glibc@2.36-1"
            ]
        );
    }

    #[test]
    fn that_implementation_refuses_what_is_not_valid() {
        let text = made(&packages()).replace("MIT OR Apache-2.0", "as you like it");
        let bom = Bom::parse_from_json_v1_5(text.as_bytes()).unwrap();
        assert!(!bom.validate_version(SpecVersion::V1_5).passed());
    }

    #[test]
    fn every_reference_leads_to_a_component() {
        let bom: serde_json::Value = serde_json::from_str(&made(&packages())).unwrap();
        let mut known: Vec<&str> =
            bom["components"].as_array().unwrap().iter().map(|c| c["bom-ref"].as_str().unwrap()).collect();
        known.push(bom["metadata"]["component"]["bom-ref"].as_str().unwrap());
        for dependency in bom["dependencies"].as_array().unwrap() {
            assert!(known.contains(&dependency["ref"].as_str().unwrap()));
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(known.contains(&on.as_str().unwrap()), "{on}");
            }
        }
        assert_eq!(
            bom["dependencies"][0]["dependsOn"],
            serde_json::json!(["glibc@2.36", "linux@6.12.9", "pyro-cli@0.1.0"])
        );
    }

    #[test]
    fn the_name_is_the_contents() {
        let (one, same) = (made(&packages()), made(&packages()));
        assert_eq!(one, same);
        let number = |text: &str| text.lines().find(|line| line.contains("urn:uuid")).unwrap().to_owned();
        assert_ne!(number(&one), number(&made(&packages()[..1])));
    }
}
