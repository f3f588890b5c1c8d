"""The stages of each verb, whose seconds its report tells."""

SECONDS = {  # the stages of each verb; one that is missing cannot be named by --fail-if
    "compress": "load measure plan fit convert recover round save",
    "quantize": "load measure round save",
    "repair": "load measure repair save",
    "merge": "load merge save",
    "export": "load export check round measure save",
    "overparam": "load expand save",
    "finetune": "load train evaluate study save",
    "profile": "load profile plot",
    "evaluate": "load evaluate",
    "generate": "load generate",
}
