"""The dashboard as its reader has it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Factory
from tests.support.kubectl import ROOT
from tests.unit.plugin import factory as objects
from tests.unit.plugin import scene

PICTURE = ROOT / "docs/dashboard.png"
Open = Callable[..., Page]


def test_a_line_is_drawn_from_data_to_tokens(factory: Factory, open_page: Open) -> None:
    scene.worked(factory.floor, factory.now)
    page = open_page()
    line = page.get_by_label("line of tiny-gpt")
    expect(line.get_by_role("heading", level=4)).to_have_text(["Data", "Train", "Version", "Serve", "Tokens"])
    job = line.get_by_role("article", name="tjob/train")
    expect(job.get_by_role("img", name="fine")).to_be_visible()
    expect(job.get_by_role("img", name="Progress: done 62 %")).to_be_visible()
    expect(job.get_by_role("img", name="Loss: ")).to_have_attribute(
        "aria-label", "Loss: 1.536 at step 620; since step 25 between 1.48 and 4.2"
    )
    expect(line.get_by_text("1843 tokens/s")).to_be_visible()
    canary = page.get_by_role("article", name="ipool/summaries").first
    expect(canary.get_by_role("img", name="Traffic: tiny-summary-v1 75 %, tiny-summary-v2 25 %")).to_be_visible()
    expect(canary.locator("[aria-current=step]")).to_have_text("▸ compare 60 s")
    expect(page.get_by_text("What blocks (1)")).to_be_visible()
    blocker = page.locator("details.blocker")
    expect(blocker.get_by_text("kubectl aifactory -n ns retry tjob/translate")).to_be_visible()
    assert "`" not in blocker.inner_text()
    expect(page).to_have_title("(1!) AI factory, namespace ns of kind-factory")
    expect(page.locator("footer")).to_contain_text("Curves begin when the command was started")


def test_every_picture_has_a_table_behind_it(factory: Factory, open_page: Open) -> None:
    scene.worked(factory.floor, factory.now)
    page = open_page()
    figures = page.locator("figure")
    expect(figures).to_have_count(6)
    for figure in figures.all():
        told = int(figure.locator("summary").inner_text().rpartition("(")[2].rstrip(")"))
        assert told > 0
        figure.locator("summary").click()
        expect(figure.locator("tbody tr")).to_have_count(told)
    loss = page.locator("figure", has_text="Loss as a table").locator("tbody tr")
    expect(loss).to_have_count(120)
    expect(loss.first).to_have_text("6201.536")


def test_a_large_factory_stays_light(factory: Factory, open_page: Open) -> None:
    """Rows of tables are there when somebody looks at them."""
    for number in range(100):
        job, version, pool = (
            scene.named(each, f"m{number}", ('"train"', f'"train{number}"'), ('"chat"', f'"chat{number}"'))
            for each in (objects.running_job(), objects.published_version(), objects.served_pool())
        )
        for step in range(20):
            job["status"]["progress"].update(step=step, loss=str(step % 7))
            factory.changes(job)
        factory.changes(version)
        factory.changes(pool)
    page = open_page()
    expect(page.locator(".line")).to_have_count(100)
    assert page.evaluate("document.querySelectorAll('*').length") < 15_000
    figure = page.get_by_role("article", name="tjob/train7", exact=True).locator("figure", has_text="Loss")
    figure.locator("summary").click()
    expect(figure.locator("tbody tr")).to_have_count(20)
    figure.locator("summary").click()
    expect(figure.locator("tbody tr")).to_have_count(0)


def test_what_happens_is_shown_and_what_is_open_or_has_the_focus_stays(factory: Factory, open_page: Open) -> None:
    job, version, pool = scene.at_work()
    factory.has(job, version, pool)
    page = open_page()
    details = page.get_by_role("article", name="tjob/train").locator("details", has_text="Conditions")
    details.locator("summary").focus()
    page.keyboard.press("Enter")
    for step, loss in ((630, "1.5"), (640, "1.4")):
        job["status"]["progress"].update(step=step, loss=loss, percent=step // 10)
        factory.changes(job)
        expect(page.get_by_text(f"step {step} of 1000")).to_be_visible()
    # Something comes before it, something after it, and its line gets another state.
    factory.changes(scene.refused()[0], "ADDED")
    factory.changes(scene.in_a_canary()[0], "ADDED")
    failing = objects.failing_job()
    job["status"].update(phase=failing["status"]["phase"], conditions=failing["status"]["conditions"])
    factory.changes(job)
    expect(page.get_by_text("What blocks (2)")).to_be_visible()
    expect(page.locator("#said")).to_contain_text("2 block, first tjob/")
    expect(details).to_have_attribute("open", "")
    expect(details.locator("summary")).to_be_focused()
    expect(page.get_by_role("article", name="tjob/train").get_by_role("img", name="Loss")).to_have_attribute(
        "aria-label", "Loss: 1.4 at step 640; since step 620 between 1.4 and 1.536"
    )
    factory.has(version, pool)
    expect(page.get_by_role("heading", name="Nothing blocks")).to_be_visible()
    expect(page.get_by_role("article", name="tjob/train")).to_have_count(0)


def test_what_its_reader_has_closed_stays_closed(factory: Factory, open_page: Open) -> None:
    factory.has(*scene.refused())
    page = open_page()
    blocker = page.locator("details.blocker")
    expect(blocker).to_have_attribute("open", "")
    blocker.locator("summary").click()
    factory.changes(scene.in_a_canary()[0], "ADDED")
    expect(page.get_by_label("line of tiny-summary")).to_be_visible()
    assert blocker.get_attribute("open") is None


def test_words_of_programs_are_text(factory: Factory, open_page: Open) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    job = scene.refused()[0]
    job["spec"]["inputs"][0]["uri"] = job["status"]["inputs"][0]["message"] = hostile
    job["metadata"]["name"] = job["spec"]["output"]["model"]["name"] = hostile
    for found in job["status"]["conditions"]:
        found["message"] = hostile
    factory.has(job)
    page = open_page()
    expect(page.locator("details.blocker .words")).to_have_text(hostile)
    expect(page.locator("h3")).to_contain_text(hostile)
    assert page.locator("main img, main script").count() == 0


def test_all_of_it_can_be_reached_by_keys(factory: Factory, open_page: Open) -> None:
    scene.worked(factory.floor, factory.now)
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator(".line")).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the lines")).to_be_focused()
    expect(page.get_by_role("link", name="To the lines")).to_be_in_viewport()
    page.keyboard.press("Tab")
    expect(page.locator("details.blocker summary")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("button.copy").first).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "kubectl -n ns edit secret s3"
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Show")).to_be_focused()
    page.keyboard.type("canary nothing")
    expect(page.locator(".line")).to_have_count(0)
    expect(page.locator("#count")).to_have_text("0 of 3 lines are shown")
    page.keyboard.press("Control+A")
    page.keyboard.type("rolling summ")
    expect(page.locator(".line h3")).to_have_text(["▸tiny-summary"])
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator(".line h3")).to_have_text(["✕translate"])


def test_states_differ_by_more_than_colour(factory: Factory, open_page: Open) -> None:
    suspended = scene.named(objects.situations()["job: suspended from the start"], "rest", ('"train"', '"rest"'))
    factory.has(*scene.at_work(), *scene.in_a_canary(), *scene.refused(), suspended)
    page = open_page()
    expect(page.locator(".line")).to_have_count(4)
    marks = {(each.inner_text(), each.get_attribute("aria-label")) for each in page.locator(".mark").all()}
    assert marks == {
        ("✓", "fine"),
        ("▸", "on its way"),
        ("‖", "rests on request"),
        ("!", "waits for somebody"),
        ("✕", "stuck"),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_has_no_fault_that_keeps_somebody_out(factory: Factory, open_page: Open, scheme: str, width: int) -> None:
    """By axe-core: names, roles, order, contrast. On a phone nothing sticks out to the side, whatever is open."""
    scene.worked(factory.floor, factory.now)
    factory.floor.trouble("ModelVersion", "cannot list resource")
    page = open_page(width, color_scheme=scheme)
    expect(page.locator(".line")).to_have_count(3)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    expect(page.locator("details[open]:has(table)")).to_have_count(page.locator("details[data-table]").count())
    found = Axe().run(page).response["violations"]
    assert not found, json.dumps([(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = "[...document.querySelectorAll('main *')].map((each) => parseFloat(getComputedStyle(each).fontSize))"
    smallest = page.evaluate(f"Math.min(...{sizes})")
    assert smallest >= 11


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_who_wants_that(factory: Factory, open_page: Open, motion: str) -> None:
    factory.has(*scene.in_a_canary())
    page = open_page(reduced_motion=motion)
    expect(page.locator(".stage.moves")).to_have_count(1)
    assert (page.evaluate("document.getAnimations().length") > 0) == (motion == "no-preference")


def test_it_says_when_it_is_not_up_to_date(factory: Factory, open_page: Open) -> None:
    page = open_page()
    expect(page.get_by_role("heading", name="Reading the cluster")).to_be_visible()
    factory.floor.trouble("ModelVersion", 'User "somebody" cannot list resource')
    expect(page.get_by_role("alert")).to_have_text(
        '✕ModelVersions can not be read: User "somebody" cannot list resource'
    )
    factory.has()
    factory.floor.trouble("ModelVersion", "")
    expect(page.locator("#count")).to_contain_text("There is no TrainingJob, ModelVersion or InferencePool here yet")
    expect(page.locator("#link")).to_have_text("live")
    factory.has(*scene.refused())
    expect(page.locator(".line")).to_have_count(1)


def test_the_picture_on_its_page(factory: Factory, open_page: Open) -> None:
    """To make it anew: AIFACTORY_UPDATE_GOLDENS=1, then look at it."""
    scene.worked(factory.floor, factory.now)
    page = open_page(1120, 780)
    expect(page.locator(".line")).to_have_count(3)
    made = page.screenshot()
    if os.environ.get("AIFACTORY_UPDATE_GOLDENS"):
        PICTURE.write_bytes(made)
    assert len(made) < 150_000
    assert PICTURE.stat().st_size < 150_000
