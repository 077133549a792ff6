"""What stays of a vocabulary, and that kept texts are cut and computed as before, for every kind of tokenizer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compressor import store
from compressor.api import encoder_linears
from compressor.config import StudentConfig
from compressor.errors import ConfigError, Incompatible
from compressor.tasks.base import Example
from compressor.tasks.data import TaskData
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_examples
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.factorize import Factorize, FactorizeConfig, Targets
from compressor_plugins.prune_vocab import PruneVocab, PruneVocabConfig

SPECIALS = {
    "roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "xlm": ("<s>", "<pad>", "</s>", "<unk>"),
    "albert": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
    "deberta": ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
}
SEEN = [f"the {n} was {a} and {b} in the {m}" for n in ("film", "plot") for m in ("middle", "ending") for a in
        ("moving", "boring") for b in ("loving", "daring", "lovely")]  # fmt: skip
UNSEEN = "cinematography overwhelmed everybody watching"


@parametrize_with_checks([PruneVocab(PruneVocabConfig())])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def wordpiece():
    from transformers import BertTokenizer

    words = [
        "[PAD]",
        "[unused0]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "film",
        "plot",
        "was",
        "mov",
        "##ing",
        "##ring",
    ]
    words += [
        "bo",
        "and",
        "lov",
        "##ely",
        "da",
        "in",
        "middle",
        "end",
        "cinema",
        "##tography",
        "ov",
        "l",
        "##o",
        "##v",
        "c",
    ]
    words += ["##i", "##n", "##e", "##m", "##a"]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=64)


def mpnet():
    from transformers import MPNetTokenizer

    names = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    words = [names.get(word, word) for word in wordpiece().get_vocab()]
    words = ["<s>", "<pad>", "</s>", *(word for word in words if word not in ("<s>", "<pad>", "</s>"))]
    return MPNetTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=64)


def bpe():
    from transformers import RobertaTokenizer

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIALS["roberta"]), initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([*SEEN, UNSEEN, UNSEEN.title()] * 2, trainer)
    return RobertaTokenizer(vocab=raw.get_vocab(), merges=merges_of(raw), model_max_length=64)


def merges_of(raw):
    import json

    return [tuple(merge) for merge in json.loads(raw.to_str())["model"]["merges"]]


def unigram(kind: str):
    import json

    import transformers

    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = "[UNK]" if kind == "deberta" else "<unk>"
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=list(SPECIALS[kind]), unk_token=unknown, show_progress=False
    )
    raw.train_from_iterator([*SEEN, UNSEEN], trainer)
    pieces = [tuple(entry) for entry in json.loads(raw.to_str())["model"]["vocab"]]
    name = {"xlm": "XLMRobertaTokenizer", "albert": "AlbertTokenizer", "deberta": "DebertaV2Tokenizer"}[kind]
    return getattr(transformers, name)(vocab=pieces, model_max_length=64)


KINDS = {
    "Bert": wordpiece,
    "Electra": wordpiece,
    "DistilBert": wordpiece,
    "MPNet": mpnet,
    "Roberta": bpe,
    "XLMRoberta": lambda: unigram("xlm"),
    "Albert": lambda: unigram("albert"),
    "DebertaV2": lambda: unigram("deberta"),
}


def house_of(folder, family: str) -> TinyHouse:
    import transformers

    house = TinyHouse(folder)
    tokenizer = KINDS[family]()
    special = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64} if family == "DistilBert" else {}
    special |= {"embedding_size": 16} if family in ("Albert", "Electra") else {}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = getattr(transformers, f"{family}Config")(
        **{"vocab_size": len(tokenizer) + 3, "max_position_embeddings": 66, "type_vocab_size": 2}
        | shape | ids | special | house.task.config_overrides()
    )  # fmt: skip
    torch.manual_seed(0)
    module = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    house.teacher = replace(house.teacher, module=module, config=config, tokenizer=tokenizer)
    examples = tuple(Example(i, text, label=i % 2) for i, text in enumerate(SEEN))
    house.data = TaskData(train=examples, validation=examples[:6], test=examples[6:12], fingerprint=family)
    return house


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def logits(artifact, texts):
    """Each text alone, so that padding plays no part."""
    found = []
    for text in texts:
        inputs = artifact.tokenizer(text, return_tensors="pt")
        inputs = {k: v for k, v in inputs.items() if k != "token_type_ids"}
        with torch.inference_mode():
            found.append(artifact.model(**inputs).logits)
    return torch.cat(found)


@pytest.mark.parametrize("family", KINDS)
def test_seen_texts_are_cut_and_computed_as_before(tmp_path, family) -> None:
    house = house_of(tmp_path, family)
    result = house.compress([PruneVocab(PruneVocabConfig())])
    old, new = house.teacher.tokenizer, result.tokenizer
    rows = result.model.get_input_embeddings().weight.shape[0]
    assert rows == len(new) == result.config.vocab_size < len(old)
    assert [pieces(new, text) for text in SEEN] == [pieces(old, text) for text in SEEN]
    assert torch.equal(logits(result, SEEN), logits(house.teacher, SEEN))
    for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"):
        assert getattr(new, name) == getattr(old, name)
        assert new.convert_ids_to_tokens(getattr(new, f"{name}_id")) == getattr(new, name)
    assert result.config.pad_token_id == new.pad_token_id
    # Words that were never seen still fall into pieces (or the unknown token), and the model takes them.
    assert pieces(new, UNSEEN) != pieces(old, UNSEEN)
    assert np.isfinite(logits(result, [UNSEEN]).numpy()).all()
    # What was saved cuts and computes alike.
    store.save(result, tmp_path / "saved", house.registry(PruneVocab(PruneVocabConfig())))
    again = store.load(tmp_path / "saved")
    assert [pieces(again.tokenizer, text) for text in (*SEEN, UNSEEN)] == [pieces(new, t) for t in (*SEEN, UNSEEN)]
    assert again.tokenizer.get_vocab() == new.get_vocab()
    assert torch.equal(logits(again, [*SEEN, UNSEEN]), logits(result, [*SEEN, UNSEEN]))
    # A plain checkpoint: transformers alone reads it too.
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "saved")(UNSEEN, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        torch.testing.assert_close(plain(ids).logits, result.model(ids).logits)
    assert ids[0].tolist() == new(UNSEEN)["input_ids"]
    notes = result.lineage[0].notes
    assert notes["training_texts_cut_differently"] == 0
    assert notes["tokens_after"] == rows and notes["tokens_before"] == len(old) + 3


def test_the_alphabet_decides_what_becomes_of_a_new_word(tmp_path) -> None:
    house = house_of(tmp_path, "Bert")
    kept, bare = (house.compress([PruneVocab(PruneVocabConfig(keep_alphabet=a))]).tokenizer for a in (True, False))
    assert pieces(house.teacher.tokenizer, "cinema")[1:-1] == ["cinema"]
    assert pieces(kept, "cinema")[1:-1] == ["c", "##i", "##n", "##e", "##m", "##a"]
    assert pieces(bare, "cinema")[1:-1] == ["[UNK]"]
    assert "[unused0]" not in kept.get_vocab()


def test_every_merge_between_is_kept(tmp_path) -> None:
    import json

    house = house_of(tmp_path, "Roberta")
    result = house.compress([PruneVocab(PruneVocabConfig())])
    before, after = (json.loads(a.tokenizer.backend_tokenizer.to_str())["model"] for a in (house.teacher, result))
    assert len(after["merges"]) < len(before["merges"])
    assert [m for m in before["merges"] if m in after["merges"]] == after["merges"], "the order of ranks changed"
    made = {left + right for left, right in after["merges"]}
    assert all(piece in made for piece in after["vocab"] if len(piece) > 1 and piece not in SPECIALS["roberta"])
    # What no text uses stays only as a part of something used.
    used = {piece for text in SEEN for piece in pieces(result.tokenizer, text)}
    parts = {part for merge in after["merges"] for part in merge}
    assert all(piece in used | parts for piece in after["vocab"] if len(piece) > 1 and piece not in SPECIALS["roberta"])


def test_rare_tokens_go_where_that_is_wanted(tmp_path) -> None:
    house = house_of(tmp_path, "Bert")
    once = Example(99, "the end", label=0)
    house.data = replace(house.data, train=(*house.data.train, once, replace(once, id=100, text="the cinema")))
    all_used = house.compress([PruneVocab(PruneVocabConfig())])
    often = house.compress([PruneVocab(PruneVocabConfig(min_count=2))])
    assert "cinema" in all_used.tokenizer.get_vocab() and "cinema" not in often.tokenizer.get_vocab()
    assert all_used.lineage[0].notes["training_texts_cut_differently"] == 0
    assert often.lineage[0].notes["training_texts_cut_differently"] == 1


def test_the_test_split_is_never_read_and_transfer_text_is(tmp_path) -> None:
    house = house_of(tmp_path, "Bert")
    house.data = replace(house.data, test=(Example(0, "the cinema", label=0),), validation=(Example(0, "bo", label=0),))
    assert "cinema" not in house.compress([PruneVocab(PruneVocabConfig())]).tokenizer.get_vocab()
    house.data = replace(house.data, unlabelled=(Example(0, "the cinema"),))
    assert "cinema" in house.compress([PruneVocab(PruneVocabConfig())]).tokenizer.get_vocab()


def test_what_compares_tokens_is_refused_after_it_and_logits_are_not(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    with pytest.raises(Incompatible, match="vocabularies differ"):
        house.check([PruneVocab(PruneVocabConfig()), Distill(DistillConfig())], StudentConfig(layers=2))
    chain = [PruneVocab(PruneVocabConfig()), Distill(DistillConfig(hidden_weight=0.0))]
    result = house.compress(chain, StudentConfig(layers=2))
    assert result.blueprint.layers == 2
    assert len(result.tokenizer) == result.config.vocab_size < len(house.teacher.tokenizer)
    last = house.compress(chain[::-1], StudentConfig(layers=2))
    assert len(last.tokenizer) == last.config.vocab_size and len(encoder_linears(last.model)) == 12


def test_a_factorised_table_loses_rows_too(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    product = Factorize(FactorizeConfig(linears=Targets.none, embeddings=True, rank=6))
    first, both = house.compress([product]), house.compress([product, PruneVocab(PruneVocabConfig())])
    table = both.model.get_input_embeddings()[0]
    assert table.weight.shape == (len(both.tokenizer), 6) and len(both.tokenizer) < len(house.teacher.tokenizer)
    np.testing.assert_array_equal(house.logits(both), house.logits(first))
    store.save(both, tmp_path / "saved", house.registry(product))
    np.testing.assert_array_equal(house.logits(store.load(tmp_path / "saved")), house.logits(both))


@pytest.mark.parametrize("kind", ["token_classification", "regression"])
def test_other_tasks(tmp_path, kind) -> None:
    from compressor.config import TaskConfig
    from compressor.tasks import build_task
    from compressor.testing.tiny import tiny_bert

    house = TinyHouse(tmp_path)
    names = ("O", "B-X") if kind == "token_classification" else ()
    house.task = build_task(TaskConfig(name=kind, type=kind, max_length=32), names)
    splits = [tuple(tiny_examples(24, seed=i, kind=kind)) for i in range(3)]
    house.data = TaskData(train=splits[0], validation=splits[1], test=splits[2], fingerprint=kind)
    module = tiny_bert(layers=4, tokens=kind == "token_classification", **house.task.config_overrides()).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    result = house.compress([PruneVocab(PruneVocabConfig())])
    np.testing.assert_array_equal(house.logits(result), house.logits(house.teacher))


def test_what_cannot_be_done_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="min_count=0"):
        PruneVocabConfig(min_count=0)
    house = TinyHouse(tmp_path)
    plan = house.plan(StudentConfig())

    class Slow:
        pass

    with pytest.raises(Incompatible, match="Slow with no tokenizer.json"):
        PruneVocab(PruneVocabConfig()).check(replace(plan.teacher, tokenizer=Slow()), plan)
    from compressor.testing.tiny import FILLERS, MARKERS, tiny_bert, tiny_tokenizer

    words = (*FILLERS, *MARKERS)
    module = tiny_bert(layers=2, vocabulary=len(words) + 5, **house.task.config_overrides()).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, tokenizer=tiny_tokenizer(words))
    with pytest.raises(Incompatible, match="all 29 tokens have to stay"):
        house.compress([PruneVocab(PruneVocabConfig())])
