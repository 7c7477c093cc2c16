"""Early exit: images stop where they are sure, and few decisions change."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftbc_pl import calibrate_, choose_exit_, convert, evaluate, evaluate_exit, load_snn, save_snn
from ftbc_pl.functional import exit as functions
from ftbc_pl.functional.exit import choose_thresholds, confidence, decisions, exit_steps
from tests.digits import body, classifier, digits
from tests.networks import images, small_cnn

LOSS = 0.01


@pytest.fixture(scope="module")
def snn():
    batch, _ = digits()
    network = convert(classifier(), 8, batches=[batch[:100]])
    calibrate_(network, [batch[:100]], progress=False)
    return network


def test_an_image_stops_at_the_first_step_whose_threshold_it_reaches():
    confidences = torch.tensor([[0.9, 0.2, 0.1, 0.5], [0.0, 0.7, 0.6, 0.9], [0.0, 0.9, 0.1, 1.0]])
    thresholds = torch.tensor([0.5, 0.7, math.inf])
    assert exit_steps(confidences, thresholds).tolist() == [1, 2, 3, 1]
    assert exit_steps(confidences, torch.full((3,), math.inf)).tolist() == [3, 3, 3, 3]


def test_confidence_is_the_margin_of_the_two_first_classes():
    logits = torch.tensor([[0.5, 0.2, 0.3]]).log()
    assert confidence(logits).item() == pytest.approx(math.log(0.5 / 0.3))
    one_output = torch.tensor([[math.log(3)], [-math.log(3)]])  # probabilities of class 1: 3/4 and 1/4
    assert confidence(one_output).tolist() == pytest.approx([math.log(3), math.log(3)])
    assert decisions(one_output).tolist() == [1, 0]


def drawn(count, seed, steps=4):
    """Confidences and agreements: a decision is right with a probability that its confidence tells."""
    generator = torch.Generator().manual_seed(seed)
    sure = torch.rand(steps, count, generator=generator)
    agrees = torch.rand(steps, count, generator=generator) < 0.9 + 0.1 * sure
    agrees[-1] = True
    return sure, agrees


def share_wrong(confidences, agrees, thresholds):
    steps = exit_steps(confidences, thresholds)
    return (~agrees.gather(0, (steps - 1).unsqueeze(0))).double().mean().item()


@pytest.mark.parametrize("loss", [0.01, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_where_confidence_tells_all_images_stop_just_there(seed, loss):
    sure, _ = drawn(400, seed)
    agrees = sure > 0.3
    agrees[-1] = True
    thresholds = choose_thresholds(sure, agrees, loss)
    assert (thresholds[:-1] - 0.3).abs().max() < 0.05
    assert thresholds[-1] == math.inf
    assert (exit_steps(sure, thresholds) == 1).double().mean() > 0.6


def test_each_half_is_judged_by_the_other():
    """The level is the highest that keeps to the loss on images that the regressions have not seen."""
    confidences, agrees = drawn(300, 3)
    count, loss = confidences.shape[1], 0.03
    levels = torch.logspace(-3, 2, functions._LEVELS, dtype=torch.float64).mul(loss).clamp(max=0.9)
    halves = [list(range(0, count, 2)), list(range(1, count, 2))]
    kept = -1
    for number in range(len(levels)):
        wrong = 0
        for fitted, judged in (halves, halves[::-1]):
            candidates = functions._thresholds(confidences[:, fitted], agrees[:, fitted], levels)[number]
            steps = exit_steps(confidences[:, judged], candidates).tolist()
            wrong += sum(not agrees[step - 1, image] for step, image in zip(steps, judged, strict=True))
        if (wrong + 1) / (count + 1) > loss:
            break
        kept = number
    assert 0 <= kept < len(levels) - 1
    expected = functions._thresholds(confidences, agrees, levels)[kept]
    assert torch.equal(choose_thresholds(confidences, agrees, loss), expected)


def test_on_new_images_the_loss_is_kept_in_the_mean():
    draws, loss, found = 40, 0.02, []
    for seed in range(draws):
        thresholds = choose_thresholds(*drawn(500, seed), loss)
        found.append(share_wrong(*drawn(4000, 1000 + seed), thresholds))
    found = torch.tensor(found)
    assert found.mean() <= loss + 3 * found.std() / math.sqrt(draws)
    assert found.mean() > loss / 4  # not by never stopping


def test_where_confidence_tells_nothing_no_image_stops():
    confidences = torch.full((2, 400), 0.5)
    agrees = torch.ones(2, 400, dtype=torch.bool)
    agrees[0, ::3] = False
    assert choose_thresholds(confidences, agrees, 0.05).tolist() == [math.inf, math.inf]


def test_the_stated_loss_holds_on_images_that_were_not_used(snn):
    batch, labels = digits()
    choice = choose_exit_(snn, [batch[800:1300]], loss=LOSS, progress=False)
    result = evaluate_exit(snn, [(batch[1300:], labels[1300:])], progress=False)
    error = math.sqrt(LOSS * (1 - LOSS) * (1 / 250 + 1 / len(result.steps)))
    assert result.loss <= LOSS + 3 * error
    assert result.accuracy >= result.accuracy_fixed[-1].item() - result.loss
    assert result.mean_steps < 6
    assert 1 <= result.mean_steps <= result.percentile_90 <= 8
    assert "steps in the mean" in str(result)
    assert f"{choice.images}" in str(choice)
    assert sum(result.to_dict()["images_by_step"]) == len(result.steps)


def test_fixed_steps_are_measured_as_evaluate_does(snn):
    batch, labels = digits()
    loader = [(batch[1300:1500], labels[1300:1500]), (batch[1500:], labels[1500:])]
    snn.exit_thresholds.fill_(math.inf)
    result = evaluate_exit(snn, loader, progress=False)
    torch.testing.assert_close(result.accuracy_fixed, evaluate(snn, loader, progress=False), rtol=1e-12, atol=0)
    assert result.accuracy == pytest.approx(result.accuracy_fixed[-1].item())
    assert result.mean_steps == result.percentile_90 == 8
    assert result.loss == 0


def test_labels_have_no_part_in_the_choice(snn):
    batch, labels = digits()
    choose_exit_(snn, [(batch[800:1100], labels[800:1100])], loss=LOSS, progress=False)
    chosen = snn.exit_thresholds.clone()
    choose_exit_(snn, [batch[800:950], batch[950:1100]], loss=LOSS, progress=False)
    assert torch.equal(snn.exit_thresholds, chosen)


def test_it_is_saved_with_the_network_and_files_of_before_are_read(snn, tmp_path):
    batch, _ = digits()
    choose_exit_(snn, [batch[800:1100]], loss=LOSS, progress=False)
    save_snn(snn, tmp_path / "snn")
    loaded = load_snn(tmp_path / "snn", ann=body(10))
    assert torch.equal(loaded.exit_thresholds, snn.exit_thresholds)
    assert bool(snn.exit_thresholds.isfinite().any())


def test_files_without_it_are_read(tmp_path):
    import json

    save_snn(convert(small_cnn(), 2, batches=[images()]), tmp_path / "snn")
    path, description = tmp_path / "snn.safetensors", json.loads((tmp_path / "snn.json").read_text())
    tensors = load_file(path)
    del tensors["exit_thresholds"]
    metadata = {"format": description["format"], "token": description["token"]}
    save_file(tensors, path, metadata=metadata)
    del description["tensors"], description["checksums"]
    description["version"] = 2
    (tmp_path / "snn.json").write_text(json.dumps(description))
    assert load_snn(tmp_path / "snn", ann=small_cnn()).exit_thresholds.tolist() == [math.inf] * 2


def test_a_calibration_takes_it_back(snn):
    batch, _ = digits()
    choose_exit_(snn, [batch[800:1100]], loss=LOSS, progress=False)
    calibrate_(snn, [batch[:100]], progress=False)
    assert not bool(snn.exit_thresholds.isfinite().any())


def test_what_can_not_be_chosen_is_an_error(snn):
    batch, _ = digits()
    with pytest.raises(ValueError, match=r"at least 200 images to keep to a loss of 0\.01, got 50"):
        choose_exit_(snn, [batch[:50]], loss=LOSS, progress=False)
    with pytest.raises(ValueError, match="loss in"):
        choose_exit_(snn, [batch[:50]], loss=0.0, progress=False)
    with pytest.raises(ValueError, match="loader is empty"):
        choose_exit_(snn, [], progress=False)
    with pytest.raises(ValueError, match="loader is empty"):
        evaluate_exit(snn, [], progress=False)
