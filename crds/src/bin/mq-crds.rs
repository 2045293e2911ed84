//! Writes the manifests of the kinds into a folder: `cargo run -p mq-crds -- crds`.

#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: mq-crds FOLDER");
        return ExitCode::from(2);
    };
    let files = match mq_crds::manifest::files() {
        Ok(files) => files,
        Err(error) => {
            eprintln!("cannot write the definitions as YAML: {error}");
            return ExitCode::FAILURE;
        }
    };
    for (name, text) in files {
        let path = folder.join(name);
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("{}", path.display());
    }
    ExitCode::SUCCESS
}
