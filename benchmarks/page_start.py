"""Seconds from the command `serve` to the page, to its first clip and to the next, in a headless Chromium.

python benchmarks/page_start.py
"""

import re
import shutil
import subprocess
import sys
import time

from playwright.sync_api import expect, sync_playwright

PATIENCE_MS = 600_000


def main() -> None:
    """Start the page with the embedded model, sample twice, print the seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", "magicvideo_jax.serve", "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url = next(filter(None, (re.search(r"http://\S+", line) for line in server.stderr)))[0]
            print(f"{time.monotonic() - began:.1f} s to the page", flush=True)
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page()
                page.goto(url, timeout=PATIENCE_MS)
                page.get_by_label("Prompt", exact=True).first.fill("a red heart moving left")
                for which in ("first", "second"):
                    asked = time.monotonic()
                    page.click("#sample")
                    expect(page.locator(".mv-clip")).to_have_count(1, timeout=PATIENCE_MS)
                    status = page.locator("#sample-status")
                    expect(status).to_contain_text("1 clip in", timeout=PATIENCE_MS)
                    now = time.monotonic()
                    print(
                        f"{now - asked:.1f} s for the {which} clip, {now - began:.1f} s in all",
                        flush=True,
                    )
                    page.evaluate(
                        "document.querySelector('#sample-status [role]').textContent = ''"
                    )
                browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
