"""Tables of experiments: known answers."""

from flows.comparison import Outcome, each, flatten, over


def test_flatten__numbers_by_dotted_names() -> None:
    metrics = {"heads": {"class": {"top1": 71.5}, "fused": {"top1": 72}}, "images": 10, "split": "val", "ok": True}
    assert flatten(metrics, "student") == {
        "student.heads.class.top1": 71.5,
        "student.heads.fused.top1": 72,
        "student.images": 10,
    }


def test_each__a_row_an_experiment_with_the_same_columns() -> None:
    rows = each(
        [
            Outcome("a", {"distill": "soft"}, {"student.top1": 60.0}, saved="a-2"),
            Outcome(
                "b", {"distill": "hard", "alpha": 0.5}, {"student.top1": 70.0, "student.nll": float("nan")}, saved="b"
            ),
            Outcome("c", {"distill": "none"}, problem="diverged"),
        ]
    )
    assert rows == [
        {
            "experiment": "a-2",
            "distill": "soft",
            "alpha": "",
            "result": "saved",
            "student.top1": 60.0,
            "student.nll": "",
        },
        {
            "experiment": "b",
            "distill": "hard",
            "alpha": 0.5,
            "result": "saved",
            "student.top1": 70.0,
            "student.nll": "nan",
        },
        {
            "experiment": "c",
            "distill": "none",
            "alpha": "",
            "result": "failed: diverged",
            "student.top1": "",
            "student.nll": "",
        },
    ]
    assert each([]) == []


def test_over__mean_and_sample_deviation_of_each_group() -> None:
    """2, 4, 4, 4, 5, 5, 7, 9: mean 5, sum of squares 32, so sqrt(32 / 7) with n - 1 and 2 with n."""
    values = [2, 4, 4, 4, 5, 5, 7, 9]
    soft = [
        Outcome(f"s{seed}", {"distill": "soft", "seeds": seed}, {"top1": float(v)}) for seed, v in enumerate(values)
    ]
    hard = [
        Outcome("h0", {"distill": "hard", "seeds": 0}, {"top1": 70.0, "nll": 1.0}),
        Outcome("h1", {"distill": "hard", "seeds": 1}, {"top1": 71.0}),
        Outcome("h2", {"distill": "hard", "seeds": 2}, problem="killed"),
    ]
    rows = over([*soft, *hard], "seeds")
    assert [(row["distill"], row["metric"], row["mean"], row["n"]) for row in rows] == [
        ("soft", "top1", 5.0, 8),
        ("hard", "top1", 70.5, 2),
        ("hard", "nll", 1.0, 1),
    ]
    assert abs(rows[0]["sd"] - (32 / 7) ** 0.5) < 1e-12 and rows[0]["sd"] != 2.0
    assert abs(rows[1]["sd"] - 0.5**0.5) < 1e-12
    assert rows[2]["sd"] == "", "one value has no spread"
    assert "seeds" not in rows[0]


def test_each__accuracies_come_first() -> None:
    (row,) = each([Outcome("a", {}, {"student.images": 252, "student.heads.class.top1": 96.4, "student.nll": 0.3})])
    assert list(row)[2:] == ["student.heads.class.top1", "student.images", "student.nll"]
