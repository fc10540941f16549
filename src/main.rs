//! The `sessionmesh` command.

fn main() {}
