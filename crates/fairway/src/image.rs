//! `fairway image`.

use std::process::ExitCode;

use fairway_pods::image::Store;

use crate::cli::{ClusterArgs, ImageCommand};
use crate::cluster::settings_of;
use crate::outcome;

/// Loads or lists images.
pub(crate) fn run(command: &ImageCommand) -> ExitCode {
    match done(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => outcome::failed(outcome::words(&error)),
    }
}

fn done(command: &ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Load { file, cluster } => {
            for name in store(cluster)?.load(file)? {
                println!("loaded {name}");
            }
        }
        ImageCommand::List { cluster } => {
            for (name, image) in store(cluster)?.list()? {
                println!("{name}  {}", image.id);
            }
        }
    }
    Ok(())
}

fn store(cluster: &ClusterArgs) -> anyhow::Result<Store> {
    Ok(Store::new(settings_of(cluster)?.directories.state.join("images")))
}
