//! What Slack refuses in blocks: kinds, lengths, counts. <https://docs.slack.dev/reference/block-kit/blocks>

use std::collections::BTreeSet;

use serde_json::Value;

/// A line per mistake.
pub fn wrong(blocks: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    if blocks.len() > 50 {
        found.push(format!("no more than 50 items allowed, there are {}", blocks.len()));
    }
    let mut ids = BTreeSet::new();
    for (at, block) in blocks.iter().enumerate() {
        let mut check = Check { place: format!("/blocks/{at}"), found: &mut found };
        check.id(block, &mut ids);
        check.block(block);
    }
    found
}

struct Check<'a> {
    place: String,
    found: &'a mut Vec<String>,
}

impl Check<'_> {
    fn say(&mut self, what: impl std::fmt::Display) {
        self.found.push(format!("{what} [json-pointer:{}]", self.place));
    }

    fn id(&mut self, block: &Value, ids: &mut BTreeSet<String>) {
        let Some(id) = block["block_id"].as_str() else { return };
        if id.chars().count() > 255 {
            self.say("`block_id` must be less than 256 characters");
        }
        if !ids.insert(id.to_owned()) {
            self.say(format!("`block_id` {id} already exists"));
        }
    }

    fn text(&mut self, text: &Value, kinds: &[&str], most: usize) {
        let kind = text["type"].as_str().unwrap_or_default();
        if !kinds.contains(&kind) {
            self.say(format!("unsupported type of text: {kind}"));
        }
        let length = text["text"].as_str().map_or(0, |text| text.chars().count());
        if length == 0 || length > most {
            self.say(format!("a text must be 1 to {most} characters, it has {length}"));
        }
    }

    fn count(&mut self, list: &Value, name: &str, most: usize) -> Vec<Value> {
        let all = list.as_array().cloned().unwrap_or_default();
        if all.is_empty() || all.len() > most {
            self.say(format!("1 to {most} `{name}` allowed, there are {}", all.len()));
        }
        all
    }

    fn block(&mut self, block: &Value) {
        const BOTH: &[&str] = &["plain_text", "mrkdwn"];
        match block["type"].as_str().unwrap_or_default() {
            "divider" => {}
            "header" => self.text(&block["text"], &["plain_text"], 150),
            "section" => {
                if block["text"].is_null() && block["fields"].is_null() {
                    self.say("a section needs `text` or `fields`");
                }
                if !block["text"].is_null() {
                    self.text(&block["text"], BOTH, 3000);
                }
                if !block["fields"].is_null() {
                    for field in self.count(&block["fields"], "fields", 10) {
                        self.text(&field, BOTH, 2000);
                    }
                }
                if !block["accessory"].is_null() {
                    self.element(&block["accessory"]);
                }
            }
            "context" => {
                for element in self.count(&block["elements"], "elements", 10) {
                    match element["type"].as_str() {
                        Some("image") => self.image(&element),
                        _ => self.text(&element, BOTH, 3000),
                    }
                }
            }
            "actions" => {
                let mut ids = BTreeSet::new();
                for element in self.count(&block["elements"], "elements", 25) {
                    self.element(&element);
                    if let Some(id) = element["action_id"].as_str()
                        && !ids.insert(id.to_owned())
                    {
                        self.say(format!("`action_id` {id} already exists"));
                    }
                }
            }
            "image" => self.image(block),
            "markdown" => {
                let length = block["text"].as_str().map_or(0, |text| text.chars().count());
                if length == 0 || length > 12_000 {
                    self.say(format!("markdown must be 1 to 12000 characters, it has {length}"));
                }
            }
            "table" => {
                let rows = self.count(&block["rows"], "rows", 100);
                for row in rows {
                    for cell in self.count(&row, "cells", 20) {
                        if !matches!(cell["type"].as_str(), Some("raw_text" | "rich_text" | "raw_number")) {
                            self.say("a cell is raw_text or rich_text");
                        }
                        if cell["type"] == "raw_text" && cell["text"].as_str().is_none_or(str::is_empty) {
                            self.say("a cell must have a text");
                        }
                    }
                }
            }
            "rich_text" => {
                for element in self.count(&block["elements"], "elements", 100) {
                    let kinds = ["rich_text_section", "rich_text_list", "rich_text_preformatted", "rich_text_quote"];
                    if !element["type"].as_str().is_some_and(|kind| kinds.contains(&kind)) {
                        self.say(format!("unsupported element: {}", element["type"]));
                    }
                }
            }
            "file" | "video" | "input" | "context_actions" => {}
            other => self.say(format!("unsupported type: {other}")),
        }
    }

    fn image(&mut self, image: &Value) {
        let alt = image["alt_text"].as_str().unwrap_or_default();
        if alt.is_empty() || alt.chars().count() > 2000 {
            self.say("`alt_text` must be 1 to 2000 characters");
        }
        if image["image_url"].is_null() == image["slack_file"].is_null() {
            self.say("an image has either `image_url` or `slack_file`");
        }
    }

    fn element(&mut self, element: &Value) {
        if element["action_id"].as_str().is_some_and(|id| id.is_empty() || id.chars().count() > 255) {
            self.say("`action_id` must be 1 to 255 characters");
        }
        match element["type"].as_str().unwrap_or_default() {
            "button" => {
                self.text(&element["text"], &["plain_text"], 75);
                if element["value"].as_str().is_some_and(|value| value.is_empty() || value.chars().count() > 2000) {
                    self.say("`value` must be 1 to 2000 characters");
                }
                if element["url"].as_str().is_some_and(|url| url.chars().count() > 3000 || !url.contains("://")) {
                    self.say("`url` must be a URL of at most 3000 characters");
                }
                if element["style"].as_str().is_some_and(|style| !matches!(style, "primary" | "danger")) {
                    self.say("`style` is primary or danger");
                }
            }
            "overflow" => {
                for option in self.count(&element["options"], "options", 5) {
                    self.text(&option["text"], &["plain_text", "mrkdwn"], 75);
                }
            }
            "image" => self.image(element),
            "static_select" => {
                self.count(&element["options"], "options", 100);
            }
            "checkboxes" | "datepicker" | "timepicker" | "users_select" | "workflow_button" | "radio_buttons" => {}
            other => self.say(format!("unsupported element: {other}")),
        }
    }
}
