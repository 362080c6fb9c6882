//! Names of calls, by which a client says which call a result belongs to.

use std::hash::{DefaultHasher, Hash, Hasher};

use agentlm_text::ToolFormat;

use crate::app::App;
use crate::config::V1Dialect;

/// Names one answer's calls.
pub(super) struct CallIds {
    dialect: V1Dialect,
    nine_characters: bool,
    random: u64,
}

impl CallIds {
    pub(super) fn new(app: &App) -> Self {
        let template = app.renderer.as_ref().map(|renderer| renderer.template());
        Self {
            dialect: app.config.v1_dialect,
            nine_characters: template.is_some_and(|template| takes_nine_characters(template.tool_format())),
            random: app.seeds.next(),
        }
    }

    /// The name of a call. TGI counts.
    pub(super) fn of(&self, index: usize) -> String {
        match self.dialect {
            V1Dialect::Tgi => index.to_string(),
            V1Dialect::OpenAi if self.nine_characters => digits(self.random.wrapping_add(index as u64)),
            V1Dialect::OpenAi => format!("call_{:016x}{index:08x}", self.random),
        }
    }
}

/// Whether a family's templates take only names of nine letters and digits.
pub(in super::super) fn takes_nine_characters(format: ToolFormat) -> bool {
    format == ToolFormat::Mistral
}

/// A name as such a template takes it: as it is, or another one that is always the same for it.
pub(in super::super) fn nine_characters(id: &str) -> String {
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    digits(hasher.finish())
}

/// Nine digits and small letters.
fn digits(mut number: u64) -> String {
    let mut text = String::with_capacity(9);
    for _ in 0..9 {
        // A digit below 36 always is one.
        text.extend(
            u32::try_from(number % 36)
                .ok()
                .and_then(|digit| char::from_digit(digit, 36)),
        );
        number /= 36;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(dialect: V1Dialect, nine_characters: bool) -> Vec<String> {
        let ids = CallIds {
            dialect,
            nine_characters,
            random: 0x0123_4567_89ab_cdef,
        };
        (0..2).map(|index| ids.of(index)).collect()
    }

    #[test]
    fn each_dialect_and_family_has_its_form() {
        assert_eq!(ids(V1Dialect::Tgi, true), ["0", "1"]);
        assert_eq!(
            ids(V1Dialect::OpenAi, false),
            ["call_0123456789abcdef00000000", "call_0123456789abcdef00000001"]
        );
        let short = ids(V1Dialect::OpenAi, true);
        assert_ne!(short[0], short[1]);
        for id in &short {
            assert_eq!(
                nine_characters(id),
                *id,
                "what was given out is taken back as it is"
            );
        }
    }

    #[test]
    fn other_names_are_made_to_fit_and_stay_apart() {
        for id in ["", "0", "call_0123456789abcdef00000000", "abcdefgh_", "äbcdefgh"] {
            let fitted = nine_characters(id);
            assert!(fitted.len() == 9 && fitted.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(fitted, nine_characters(id));
        }
        assert_ne!(nine_characters("0"), nine_characters("1"));
        assert_eq!(nine_characters("AbC123xyz"), "AbC123xyz");
    }
}
