//! Writes the manifests of the kinds and the reference pages: `cargo run -p mq-crds -- .` in the root of the project.

#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: mq-crds ROOT-OF-THE-PROJECT");
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
        let path = root.join(name);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
        if let Err(error) = written {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("{}", path.display());
    }
    ExitCode::SUCCESS
}
