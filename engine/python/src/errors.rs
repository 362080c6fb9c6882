//! Maps each Rust error kind to its Python exception class in `agentlm.errors`.

use agentlm_host::{ControlError, SubmitError};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// An instance of `agentlm.errors.<class>` with this message.
pub fn raise(class: &str, message: impl std::fmt::Display) -> PyErr {
    let message = message.to_string();
    Python::attach(|py| {
        let built = py
            .import("agentlm.errors")
            .and_then(|module| module.getattr(class))
            .and_then(|class| class.call1((message.as_str(),)));
        match built {
            Ok(instance) => PyErr::from_value(instance),
            Err(error) => {
                PyRuntimeError::new_err(format!("{message} (and {class} could not be raised: {error})"))
            }
        }
    })
}

/// The exception for a refused submission.
pub fn submit(error: &SubmitError) -> PyErr {
    let class = match error {
        SubmitError::Overloaded => "OverloadedError",
        SubmitError::Refused(_) => "InvalidRequestError",
        SubmitError::Draining | SubmitError::Closed => "EngineClosedError",
        SubmitError::Failed(_) => "EngineFailedError",
    };
    raise(class, error)
}

/// The exception for a control that was not carried out.
pub fn control(error: &ControlError) -> PyErr {
    let class = match error {
        ControlError::AdapterExists(_) | ControlError::UnknownAdapter(_) => "AdapterError",
        ControlError::Timeout { .. } | ControlError::Asleep | ControlError::Failed(_) => "ControlError",
        ControlError::Closed => "EngineClosedError",
    };
    raise(class, error)
}
