//! Names out of a text that is not YAML: enough to know whose policies a broken file holds.

use super::CheckedFile;
use crate::policy::{RepositoryName, is_name, parse::pieces};

/// Notes the names that stand in each document of a text. Too many are better than too few: a name that is noted is
/// only kept from being changed.
pub fn names(text: &str, checked: &mut CheckedFile) {
    for piece in pieces(text).take(crate::policy::parse::MOST_DOCUMENTS) {
        let piece = &text[piece];
        let kind = value_of(piece, "kind");
        let metadata = piece.split_once("metadata:").map_or("", |(_, rest)| rest);
        // What follows the metadata has names of its own, of sources and more.
        let metadata = metadata.split_once("\nspec:").map_or(metadata, |(before, _)| before);
        let namespace = value_of(metadata, "namespace").filter(|name| is_name(name)).unwrap_or("default");
        let name = value_of(metadata, "name").filter(|name| is_name(name));
        match kind {
            Some("Settings") => checked.has_settings = true,
            Some("Repository") => checked.repositories.extend(name.map(|name| RepositoryName(name.to_owned()))),
            Some("Restore") => {}
            // Such as the piece before the first `---`.
            None if is_blank(piece) => {}
            Some(_) | None => checked.note_policy(namespace, name),
        }
    }
}

/// Whether nothing stands there but comments and the mark of a document.
fn is_blank(piece: &str) -> bool {
    piece.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

/// The plain or quoted text behind `KEY:`, in block or flow style.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut rest = text;
    while let Some(at) = rest.find(key) {
        let before = rest[..at].chars().next_back();
        let after = &rest[at + key.len()..];
        if before.is_none_or(|c| c.is_whitespace() || matches!(c, '{' | ',' | '"' | '\'')) {
            let after = after.trim_start_matches(['"', '\'']).trim_start_matches(' ');
            if let Some(value) = after.strip_prefix(':') {
                let value = value.trim_start_matches([' ', '"', '\'']);
                let end = value.find(['\n', '\r', ' ', ',', '}', '"', '\'', '#']).unwrap_or(value.len());
                return Some(&value[..end]).filter(|value| !value.is_empty());
            }
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_broken_text() {
        let text = "kind: BackupPolicy\nmetadata:\n  name: nightly # x\n  namespace: 'shop'\nspec: [\n---\n\
                    {kind: BackupPolicy, metadata: {namespace: web, name: \"b\"}, spec: {sources: [{name: c}\n---\n\
                    kind: Repository\nmetadata: {name: offsite}\nspec: {{\n---\nkind: Settings\n";
        let mut checked = CheckedFile::default();
        names(text, &mut checked);
        let policies: Vec<String> = checked.policies.iter().map(ToString::to_string).collect();
        assert_eq!(policies, ["shop/nightly", "web/b"]);
        assert_eq!(checked.repositories.len(), 1);
        assert!(checked.has_settings && !checked.hides_names);
        names("# all is well\n---\nkind: BackupPolicy\nmetadata: {name: [\n", &mut checked);
        assert!(checked.hides_names);
    }
}
