"""Which command makes a file: the stage of dvc.yaml whose out it is."""

import re

MAKERS = [  # (file under data/, stage); the first that fits
    (r"metrics/transfer-(.+)\.json", r"transfer@\1"),
    (r"metrics/robust-(.+)\.json", r"robust@\1"),
    (r"metrics/real-(.+)\.json", r"real@\1"),
    (r"metrics/agreement\.json", "agree"),
    (r"metrics/probe\.json", "probe"),
    (r"metrics/(.+)\.json", r"evaluate@\1"),
    (r"history/transfer-(.+)\.csv", r"transfer@\1"),
    (r"history/teacher\.csv", "teacher"),
    (r"history/mae\.csv", "pretrain"),
    (r"history/student\.csv", "distill"),
    (r"history/finetuned\.csv", "finetune"),
    (r"plots/transfer-(.+)-(?:confusion|classes|reliability)\.csv", r"transfer@\1"),
    (r"plots/(.+)-(?:confusion|classes|reliability)\.csv", r"evaluate@\1"),
    (r"plots/(.+)-images\.csv", r"look@\1"),
    (r"plots/(.+)-tokens\.csv", r"attend@\1"),
    (r"looks/(.+)\.json", r"look@\1"),
    (r"samples/mae\.png", "pretrain"),
    (r"samples/mae-\d+\.png", "probe"),
    (r"samples/student\.png", "distill"),
    (r"samples/(teacher|student|finetuned)-images\.png", r"look@\1"),
    (r"samples/(student|finetuned)-attention\.png", r"attend@\1"),
    (r"samples/(.+)\.png", r"ingest@\1"),
    (r"stored/(.+)\.json", r"shard@\1"),
    (r"manifest/(.+)-rejected\.csv", r"ingest@\1"),
    (r"gate-details/(manifest|shards|model)-(.+)\.json", r"validate-\1@\2"),
]


def stage(file: str) -> str:
    """The stage that writes data/...; "" for a file no stage of this pipeline writes."""
    name = file.removeprefix("data/")
    return next((match.expand(maker) for form, maker in MAKERS if (match := re.fullmatch(form, name))), "")


def command(file: str) -> str:
    """What to type to make it, with all it needs; "" for a file no stage writes."""
    maker = stage(file)
    return f"dvc repro {maker}" if maker else ""
