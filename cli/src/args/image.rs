//! `orlop image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `orlop image`.
#[derive(Debug, Args)]
pub struct Image {
    /// Where images are kept; ./orlop-data/images or /var/lib/orlop/agent/images when not given
    #[arg(long, global = true, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,
    /// What about them.
    #[command(subcommand)]
    pub action: ImageAction,
}

/// What `orlop image` can do.
#[derive(Debug, Subcommand)]
pub enum ImageAction {
    /// Load images from an archive (OCI layout or docker save)
    Load {
        /// The archive
        #[arg(value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Pull an image from its registry
    Pull {
        /// [HOST[:PORT]/][REPOSITORY/]NAME[:TAG|@DIGEST]
        reference: String,
        /// USER:PASSWORD for the registry
        #[arg(long, env = "ORLOP_REGISTRY_CREDENTIALS", hide_env_values = true)]
        creds: Option<String>,
        /// Speak to the registry without TLS
        #[arg(long)]
        plain_http: bool,
    },
    /// List the images
    Ls,
}
