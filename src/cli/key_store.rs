//! `strongroom key-store`: custom key stores of a running server, through its API.

use clap::{Args, Subcommand};
use serde_json::json;

use super::CliError;
use super::client::{self, Client, text};

/// Manage custom key stores of a running server.
#[derive(Debug, Args)]
pub(super) struct KeyStore {
    /// The server [env: `AWS_ENDPOINT_URL`] [default: <http://127.0.0.1:9000>]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(subcommand)]
    command: KeyStoreCommand,
}

#[derive(Debug, Subcommand)]
enum KeyStoreCommand {
    /// List key stores
    List,
    /// Put a key store on a token group of the server's configuration; connect it then
    Create {
        /// Its name
        name: String,
        /// The token group, by its name in the configuration
        #[arg(long, value_name = "NAME")]
        group: String,
    },
    /// Let its keys be used
    Connect(StoreArg),
    /// Let none of its keys be used
    Disconnect(StoreArg),
    /// Delete a key store that is disconnected and empty
    Delete(StoreArg),
}

#[derive(Debug, Args)]
struct StoreArg {
    /// Its id, cks-…
    id: String,
}

impl KeyStore {
    pub(super) fn run(self) -> Result<(), CliError> {
        client::run(self.endpoint, async |client| self.command.run(client).await)
    }
}

impl KeyStoreCommand {
    async fn run(self, client: &Client) -> Result<(), CliError> {
        let (operation, id) = match self {
            Self::List => return list(client).await,
            Self::Create { name, group } => {
                let cluster_id = crate::kms::cluster_id_of(&group);
                let input = json!({ "CustomKeyStoreName": name, "CloudHsmClusterId": cluster_id });
                let made = client.kms("CreateCustomKeyStore", &input).await?;
                println!("{}", text(&made, "/CustomKeyStoreId"));
                return Ok(());
            }
            Self::Connect(store) => ("ConnectCustomKeyStore", store.id),
            Self::Disconnect(store) => ("DisconnectCustomKeyStore", store.id),
            Self::Delete(store) => ("DeleteCustomKeyStore", store.id),
        };
        client
            .kms(operation, &json!({ "CustomKeyStoreId": id }))
            .await?;
        Ok(())
    }
}

async fn list(client: &Client) -> Result<(), CliError> {
    for store in client
        .pages("DescribeCustomKeyStores", "CustomKeyStores")
        .await?
    {
        println!(
            "{}  {:<12} {}  {}",
            text(&store, "/CustomKeyStoreId"),
            text(&store, "/ConnectionState"),
            text(&store, "/CloudHsmClusterId"),
            text(&store, "/CustomKeyStoreName"),
        );
    }
    Ok(())
}
