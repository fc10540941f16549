//! The `sessionmesh` command.

use clap::Parser as _;

#[derive(clap::Parser)]
enum Cli {
    Serve(Serve),
}

#[derive(clap::Args)]
struct Serve {
    #[arg(long, env = "SESSIONMESH_DATA_DIR")]
    data_dir: std::path::PathBuf,
    #[arg(long)]
    listen: std::net::SocketAddr,
    #[arg(long)]
    http: std::net::SocketAddr,
    #[arg(long)]
    name: String,
    #[arg(long)]
    join: Option<String>,
    #[arg(long, default_value = "10s")]
    undo_window: String,
    #[arg(long)]
    log_format: Option<String>,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "it is the command")]
#[tokio::main]
async fn main() -> std::process::ExitCode {
    let Cli::Serve(serve) = Cli::parse();
    let _ = serve.log_format;
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let window = serve.undo_window.trim_end_matches("ms");
    let undo_window = if window == serve.undo_window {
        std::time::Duration::from_secs_f64(window.trim_end_matches('s').parse().unwrap_or(10.0))
    } else {
        std::time::Duration::from_millis(window.parse().unwrap_or(1_000))
    };
    let settings = sessionmesh::daemon::Settings {
        data_dir: serve.data_dir,
        listen: serve.listen,
        http: serve.http,
        name: serve.name,
        join: serve.join,
        undo_window,
    };
    let ready = |ready: &sessionmesh::daemon::Ready| {
        println!(
            "{}",
            serde_json::json!({"ready": true, "node": ready.node, "fleet": ready.fleet,
                "http": format!("http://{}", ready.http), "quic": ready.quic.to_string(),
                "socket": ready.socket, "data_dir": ready.data_dir})
        );
    };
    let stop = async {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    match sessionmesh::daemon::run(settings, ready, stop).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
