"""The claims, each with what its paper reports and the recipes that try it here."""

import math

from benchmarks.claims.recipes import (
    CARS,
    CIFAR,
    HARD,
    NO_MIX,
    NO_TOKEN,
    SOFT,
    TRANSFORMER,
    Changes,
    Claim,
    Contrast,
    Variant,
    with_,
)

SCALE = "CIFAR-10 at 32 px, 10,000 training and 4,000 test images, a ViT of 16 patches, width 128, depth 4"
MAE: Changes = {"train.init": "mae"}
SEED = ("train.views.seed",)
WITH_MAE = ("train.views.seed", "pretrain.seed")
TUNED = ("train.views.seed", "finetune.views.seed")
TAUGHT = ("train.views.seed", "teacher.views.seed")


def subset_of(percent: int) -> dict[str, object]:
    """A share of the training images, with 1 / sqrt(share) times the epochs."""
    longer = math.sqrt(100 / percent)
    blocks = {"train.views.epochs": 8, "pretrain.epochs": 8, "teacher.views.epochs": 30}
    return {"data.subset": percent, **{key: round(epochs * longer) for key, epochs in blocks.items()}}


ON_CARS: Changes = {
    "sets.main": CARS,
    "sets.transfer": [CIFAR],
    "train.label_smoothing": 0.0,
    "train.views.randaugment": "none",
    "train.views.epochs": 60,
    "train.schedule.warmup_epochs": 5,
    "train.schedule.min_lr": 0.0,
    "evaluate.split": "val",
}
"""What transfer.* says, said of train.*."""
QUARTER = subset_of(25)

DISTILLATION = Claim(
    "distillation",
    "Distillation: hard, soft, none; and which head answers",
    "DeiT Table 3, Ti / S / B at 224 px: none 72.2 / 79.8 / 81.8, soft 72.2 / 79.8 / 81.8, hard with the token: class head 73.9 / "
    "80.9 / 83.0, distillation head 74.6 / 81.1 / 83.1, both 74.5 / 81.2 / 83.4; Table 4 (disagreement)",
    f"{SCALE}, 8 epochs; one RegNetY teacher (30 epochs of the same images) for all",
    (
        Variant("none", {}, teacher=True),
        Variant("soft", SOFT, teacher=True),
        Variant("hard", HARD, teacher=True),
    ),
    (
        Contrast("hard distillation beats none", ("hard", "fused_logits"), ("none", "class")),
        Contrast("hard distillation beats soft", ("hard", "fused_logits"), ("soft", "fused_logits")),
        Contrast("soft distillation beats none (equal in the paper)", ("soft", "fused_logits"), ("none", "class")),
        Contrast("both heads fused beat the class head", ("hard", "fused_logits"), ("hard", "class")),
        Contrast("both heads fused beat the distillation head", ("hard", "fused_logits"), ("hard", "dist")),
        Contrast("the distillation head beats the class head", ("hard", "dist"), ("hard", "class")),
        Contrast(
            "the class head differs from the teacher more often than the distillation head",
            ("hard", "class_teacher"),
            ("hard", "dist_teacher"),
        ),
        Contrast(
            "a student without distillation differs from the teacher more often than the distilled one",
            ("none", "class_teacher"),
            ("hard", "fused_logits_teacher"),
        ),
        Contrast(
            "class and distillation token are more alike after the last block than at the input",
            ("hard", "cosine_last"),
            ("hard", "cosine_input"),
        ),
    ),
    {
        "both heads fused beat the class head": "the paper's difference is 0.3 to 0.6 points, hardly what is resolved here",
        "both heads fused beat the distillation head": "the paper's difference is -0.1 to 0.3 points, less than is resolved here",
        "the distillation head beats the class head": "the paper's difference is 0.1 to 0.7 points, less than is resolved here",
    },
)
TOKEN = Claim(
    "token",
    "Hard distillation with and without the distillation token",
    "DeiT Table 3, Ti / S / B at 224 px: usual (soft, one token) 72.2 / 79.8 / 81.8, hard with one token 74.3 / 80.9 / 83.0, hard "
    "with the distillation token 74.5 / 81.2 / 83.4",
    f"{SCALE}, 8 epochs; one RegNetY teacher (30 epochs of the same images) for all; without the token one head learns from labels "
    "and teacher",
    (
        Variant("usual", with_(SOFT, NO_TOKEN), teacher=True),
        Variant("hard-one-token", with_(HARD, NO_TOKEN), teacher=True),
        Variant("hard", HARD, teacher=True),
    ),
    (
        Contrast("hard distillation of one token beats usual", ("hard-one-token", "class"), ("usual", "class")),
        Contrast(
            "the distillation token helps hard distillation", ("hard", "fused_logits"), ("hard-one-token", "class")
        ),
    ),
)
TEACHER_KIND = Claim(
    "teacher-kind",
    "A convnet or a transformer as teacher",
    "DeiT Table 2, DeiT-B at 224 px: of DeiT-B (81.8) 81.9, of RegNetY-8GF (81.7) 82.7",
    f"{SCALE}, 8 epochs; hard-distilled students of a RegNetY or a ViT of the student's sizes, each seed with a teacher of its "
    "own, 30 epochs of the same images. The claim is about teachers of like accuracy: the first contrast says whether these are",
    (
        Variant("of-convnet", HARD, seeds=TAUGHT, teacher=True),
        Variant("of-transformer", with_(HARD, TRANSFORMER), seeds=TAUGHT, teacher=True),
    ),
    (
        Contrast(
            "the convnet is the more accurate teacher",
            ("of-convnet", "teacher_top1"),
            ("of-transformer", "teacher_top1"),
        ),
        Contrast("a convnet teaches better", ("of-convnet", "fused_logits"), ("of-transformer", "fused_logits")),
    ),
)
PRETRAINING = Claim(
    "pretraining",
    "MAE pretraining against training from scratch",
    "MAE Table 3, ViT-B / L / H: scratch 82.3 / 82.6 / 83.1, MAE 83.6 / 85.9 / 86.9 (1,600 epochs of pretraining more)",
    f"{SCALE}; MAE 8 epochs and 8 of training, against 16 epochs of training (equal in all) and against 8",
    (
        Variant("scratch-8", {}),
        Variant("mae-8-8", MAE, seeds=WITH_MAE),
        Variant("scratch-16", {"train.views.epochs": 16, "train.schedule.warmup_epochs": 2}),
    ),
    (
        Contrast("MAE beats scratch of the same training epochs", ("mae-8-8", "class"), ("scratch-8", "class")),
        Contrast("MAE beats scratch at equal total epochs", ("mae-8-8", "class"), ("scratch-16", "class")),
    ),
    {
        "MAE beats scratch at equal total epochs": "the paper pretrained for 1,600 epochs of 1.28 million images and compares with "
        "fewer epochs in all; here it is 8 epochs of 10,000, and 4 of 16 patches stay visible",
    },
)
UNDERFIT = "after 16 epochs the model underfits (its validation loss lies below its training loss): nothing to be kept from yet"
AUGMENTATION = Claim(
    "augmentation",
    "RandAugment's magnitude and the train-validation gap",
    "DeiT Table 8, DeiT-B: RandAugment 81.8, none 79.6 (300 epochs of ImageNet)",
    f"{SCALE}, a quarter of these images, 16 epochs, without mixup, cutmix and erasing; gap: validation cross-entropy less the "
    "training loss of the last epoch, which is taken on augmented images and smoothed labels, so that it narrows as they "
    "get harder, whatever the model learns",
    tuple(
        Variant(f"m{magnitude}", with_(QUARTER, NO_MIX, {"train.views.randaugment": text}))
        for magnitude, text in (
            (0, "none"),
            (5, "rand-m5-mstd0.5-inc1"),
            (9, "rand-m9-mstd0.5-inc1"),
            (14, "rand-m14-mstd0.5-inc1"),
        )
    ),
    (
        Contrast("magnitude 9 beats none", ("m9", "class"), ("m0", "class")),
        Contrast("magnitude 9 beats 5", ("m9", "class"), ("m5", "class")),
        Contrast("magnitude 9 beats 14", ("m9", "class"), ("m14", "class")),
        Contrast("the gap of none is wider than that of magnitude 5", ("m0", "gap"), ("m5", "gap")),
        Contrast("the gap of magnitude 5 is wider than that of 9", ("m5", "gap"), ("m9", "gap")),
        Contrast("the gap of magnitude 9 is wider than that of 14", ("m9", "gap"), ("m14", "gap")),
    ),
    {
        "magnitude 9 beats none": f"{UNDERFIT}; the paper trained for 300 epochs",
        "magnitude 9 beats 5": UNDERFIT,
        "magnitude 9 beats 14": "both are more than this model can use",
    },
)
RESOLUTION = Claim(
    "resolution",
    "Fine-tuning at a higher resolution",
    "DeiT Table 3, DeiT-B distilled: 83.4 at 224 px, 84.5 after fine-tuning at 384 px",
    f"{SCALE}; hard-distilled students, 2 epochs of fine-tuning at 48 px from labels (the teacher has seen 32 px), "
    "and 2 more at 32 px as control",
    (
        Variant("student-32", HARD),
        Variant("tuned-32", with_(HARD, {"finetune.views.image_size": 32}), model="finetuned", seeds=TUNED),
        Variant("tuned-48", HARD, model="finetuned", seeds=TUNED),
    ),
    (
        Contrast("fine-tuned at 48 px beats the student", ("tuned-48", "fused_logits"), ("student-32", "fused_logits")),
        Contrast(
            "fine-tuned at 48 px beats as many epochs more at 32 px",
            ("tuned-48", "fused_logits"),
            ("tuned-32", "fused_logits"),
        ),
    ),
)
TRANSFER = Claim(
    "transfer",
    "Transfer against training from scratch",
    "DeiT Table 7: Stanford Cars 92.1 (DeiT-B), 93.9 (distilled, at 384 px); none from scratch, but for CIFAR-10",
    "Stanford Cars, 10 classes of 406 images, half of them for training and half measured, at 32 px; 60 epochs of the student that "
    "was trained on CIFAR-10 (10,000 images, 8 epochs, no distillation), or of the same ViT from scratch, at the same rate",
    (
        Variant("transferred", {}, f"transfer-{CARS}", CARS, ("train.views.seed", "transfer.views.seed")),
        Variant("from-scratch", with_(NO_MIX, ON_CARS), set_name=CARS),
    ),
    (Contrast("transfer beats training from scratch", ("transferred", "class"), ("from-scratch", "class")),),
    {
        "transfer beats training from scratch": "201 images measure to about six points; the student has seen other things "
        "for two minutes, and 32 px hide what tells one car from another",
    },
)
KINDS: dict[str, Changes] = {"scratch": {}, "mae": MAE, "distilled": HARD, "both": with_(HARD, MAE)}
HEAD = {"scratch": "class", "mae": "class", "distilled": "fused_logits", "both": "fused_logits"}
SUBSETS = (1, 5, 10, 25, 100)
EFFICIENCY = Claim(
    "efficiency",
    "Data efficiency: scratch, MAE, distilled, both",
    "DeiT and MAE call themselves data-efficient; neither has this curve",
    f"{SCALE} at 100 %; `data.subset` cuts the images of teacher, MAE and student alike; epochs grow with one over the root of the "
    "share (8 at 100 %, 25 at 10 %, 80 at 1 %), the teacher's (30 at 100 %) and the MAE's (8) likewise; the MAE's come on top",
    tuple(
        Variant(
            f"{kind}-{subset}", with_(subset_of(subset), changes), seeds=WITH_MAE if "mae" in changes.values() else SEED
        )
        for subset in SUBSETS
        for kind, changes in KINDS.items()
    ),
    tuple(
        Contrast(f"{says} at {subset} %", (f"{first}-{subset}", HEAD[first]), (f"{second}-{subset}", HEAD[second]))
        for subset in SUBSETS
        for says, first, second in (
            ("MAE beats scratch", "mae", "scratch"),
            ("distillation beats scratch", "distilled", "scratch"),
            ("both beat distillation alone", "both", "distilled"),
        )
    ),
    {
        "distillation beats scratch at 10 %": "the teacher has learnt its 1,000 images nearly by heart (training loss 0.84 with "
        "smoothed labels, against 1.27 on all images), so on them it says little that the labels do not",
    },
)
CLAIMS = {
    claim.name: claim
    for claim in (DISTILLATION, TOKEN, TEACHER_KIND, PRETRAINING, AUGMENTATION, RESOLUTION, TRANSFER, EFFICIENCY)
}
