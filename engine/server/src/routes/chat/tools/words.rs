//! Tools in words, for templates that know none: the model is told in a message what it can call, and calls and results
//! of the conversation become text of the two roles that every template knows.

use serde_json::{Map, Value, json};

use super::{Choice, Tools};

/// The conversation without calls and results, and with `tools` told.
pub(in super::super) fn in_words(messages: Vec<Value>, tools: Option<&Tools>) -> Vec<Value> {
    let mut messages = without_calls(messages);
    if let Some(tools) = tools {
        let told = tools.told();
        let has_role = |role: &str| messages.first().is_some_and(|message| message["role"] == role);
        if has_role("system") {
            join(&mut messages[0], &told, false);
        } else if let Some(first) = messages.iter_mut().find(|message| message["role"] == "user") {
            join(first, &told, true);
        } else {
            messages.insert(0, said("user", told));
        }
    }
    messages
}

impl Tools {
    fn told(&self) -> String {
        let mut text = "You can call these functions:\n".to_owned();
        for tool in &self.definitions {
            text.push_str(&tool["function"].to_string());
            text.push('\n');
        }
        text.push('\n');
        let list = "a JSON list of calls, such as [{\"name\": \"NAME\", \"arguments\": {}}]";
        let wish = match (&self.prompt, &self.choice) {
            (Some(prompt), _) => prompt.trim().to_owned(),
            (None, Choice::Auto) => {
                format!(
                    "If a function helps, answer with nothing but {list}. Otherwise answer in plain text."
                )
            }
            (None, Choice::Required) => format!("Answer with nothing but {list}."),
            (None, Choice::Named(name)) => {
                format!("Answer with nothing but the arguments of a call of {name}, as one JSON object.")
            }
        };
        text.push_str(&wish);
        text
    }
}

fn said(role: &str, content: impl Into<String>) -> Value {
    let content: String = content.into();
    json!({"role": role, "content": content})
}

/// Adds a paragraph to a message. A long conversation may have thousands of them: what is there already is not copied.
fn join(message: &mut Value, text: &str, before: bool) {
    let Value::String(content) = &mut message["content"] else {
        message["content"] = Value::from(text);
        return;
    };
    match (content.is_empty(), before) {
        (true, _) => content.push_str(text),
        (false, true) => content.insert_str(0, &format!("{text}\n\n")),
        (false, false) => {
            content.push_str("\n\n");
            content.push_str(text);
        }
    }
}

fn without_calls(messages: Vec<Value>) -> Vec<Value> {
    let mut plain: Vec<Value> = Vec::with_capacity(messages.len());
    let mut names = Map::new();
    // The last message is one of results, to which what the user says next belongs.
    let mut results = false;
    for mut message in messages {
        let role = message["role"].as_str().unwrap_or_default().to_owned();
        let content = message["content"].as_str().unwrap_or_default().to_owned();
        let follows = std::mem::replace(&mut results, role == "tool");
        let next = match role.as_str() {
            "tool" => result(&message, &names, &content),
            "user" if follows => content,
            _ => {
                let calls = message
                    .as_object_mut()
                    .and_then(|fields| fields.shift_remove("tool_calls"));
                if let Some(calls) = calls {
                    join(&mut message, &written(&calls, &mut names), false);
                }
                plain.push(message);
                continue;
            }
        };
        match plain.last_mut().filter(|_| follows) {
            Some(last) => join(last, &next, false),
            None => plain.push(said("user", next)),
        }
    }
    plain
}

/// Calls as the model is asked to write them; their names are kept by id.
fn written(calls: &Value, names: &mut Map<String, Value>) -> String {
    let calls = calls.as_array().map(Vec::as_slice).unwrap_or_default();
    let call = |call: &Value| {
        let function = &call["function"];
        if let Some(id) = call["id"].as_str() {
            names.insert(id.to_owned(), function["name"].clone());
        }
        json!({"name": function["name"], "arguments": function["arguments"]})
    };
    Value::from_iter(calls.iter().map(call)).to_string()
}

fn result(message: &Value, names: &Map<String, Value>, content: &str) -> String {
    let called = message["tool_call_id"].as_str().and_then(|id| names.get(id));
    match called.unwrap_or(&message["name"]).as_str() {
        Some(name) => format!("Result of {name}:\n{content}"),
        None => format!("Result:\n{content}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(choice: Choice, prompt: Option<&str>) -> Tools {
        Tools {
            definitions: vec![json!({"type": "function", "function": {"name": "f", "parameters": {}}})],
            choice,
            parallel: true,
            prompt: prompt.map(str::to_owned),
        }
    }

    #[test]
    fn the_tools_stand_where_every_template_shows_them() {
        let told = "You can call these functions:\n{\"name\":\"f\",\"parameters\":{}}\n\ndo";
        let tools = tools(Choice::Auto, Some(" do\n"));
        let system = json!({"role": "system", "content": "be kind"});
        let user = json!({"role": "user", "content": "hi"});
        let cases = [
            (
                vec![system, user.clone()],
                vec![said("system", format!("be kind\n\n{told}")), user.clone()],
            ),
            (
                vec![user.clone(), said("assistant", "yes"), user.clone()],
                vec![
                    said("user", format!("{told}\n\nhi")),
                    said("assistant", "yes"),
                    user,
                ],
            ),
            (vec![], vec![said("user", told)]),
        ];
        for (messages, expected) in cases {
            assert_eq!(in_words(messages, Some(&tools)), expected);
        }
    }

    #[test]
    fn each_choice_is_asked_for() {
        let list = "a JSON list of calls, such as [{\"name\": \"NAME\", \"arguments\": {}}]";
        let cases = [
            (
                Choice::Auto,
                format!(
                    "If a function helps, answer with nothing but {list}. Otherwise answer in plain text."
                ),
            ),
            (Choice::Required, format!("Answer with nothing but {list}.")),
            (
                Choice::Named("f".to_owned()),
                "Answer with nothing but the arguments of a call of f, as one JSON object.".to_owned(),
            ),
        ];
        for (choice, wish) in cases {
            let told = tools(choice, None).told();
            assert_eq!(told.split_once("\n\n").unwrap().1, wish);
        }
    }

    #[test]
    fn thousands_of_results_take_no_longer_than_their_length() {
        let results = 60_000;
        let messages = vec![json!({"role": "tool", "content": "x"}); results];
        let began = std::time::Instant::now();
        let plain = in_words(messages, None);
        let content = plain[0]["content"].as_str().unwrap();
        assert_eq!(content.len(), "Result:\nx\n\n".len() * results - 2);
        // Copied anew for each, they would be 20 GB.
        assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
    }

    #[test]
    fn calls_and_results_become_turns_of_the_two_roles() {
        let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": {"x": 1}}});
        let messages = vec![
            said("user", "hi"),
            json!({"role": "assistant", "content": "", "tool_calls": [call("1", "f"), call("2", "g")]}),
            json!({"role": "tool", "content": "7", "tool_call_id": "2"}),
            json!({"role": "tool", "content": "8", "tool_call_id": "9", "name": "h"}),
            said("user", "so?"),
            json!({"role": "assistant", "content": "well", "tool_calls": [call("3", "f")]}),
            json!({"role": "tool", "content": "9"}),
            said("assistant", "done"),
            said("user", "thanks"),
        ];
        let plain = in_words(messages, None);
        assert_eq!(
            plain,
            [
                said("user", "hi"),
                said(
                    "assistant",
                    r#"[{"name":"f","arguments":{"x":1}},{"name":"g","arguments":{"x":1}}]"#
                ),
                said("user", "Result of g:\n7\n\nResult of h:\n8\n\nso?"),
                said("assistant", "well\n\n[{\"name\":\"f\",\"arguments\":{\"x\":1}}]"),
                said("user", "Result:\n9"),
                said("assistant", "done"),
                said("user", "thanks"),
            ]
        );
    }
}
