"""How the page looks: a theme of the system's own fonts, and the style of its results."""

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def page_theme() -> gr.themes.Base:
    """Gradio's plain theme with fonts that every machine has: nothing is fetched for it."""
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_500",  # the usual 400 is hard to read on white
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
    )


PAGE_STYLE = """
.gradio-container { max-width: 1240px !important; width: 100%; margin: 0 auto !important; }
footer { display: none !important; }
.mv-title h1 { font-size: 1.5rem; font-weight: 650; letter-spacing: -0.01em; margin: 0; }
.mv-title p { color: var(--body-text-color-subdued); margin: 0.15rem 0 0; }
.mv-columns { gap: 1.5rem; }
[id$="-status"] { scroll-margin-bottom: 40vh; }
.mv-side h3 { font-weight: 650; margin: 0.4rem 0 0; }
.mv-status { color: var(--body-text-color-subdued); font-size: 0.95rem; padding: 0.5rem 0; }
.mv-warning { border-left: 3px solid #d97706; padding-left: 0.6rem; margin-top: 0.4rem;
  overflow-wrap: anywhere; }
.mv-status progress { display: block; width: 100%; height: 6px; margin-top: 0.5rem; border: 0;
  border-radius: 3px; overflow: hidden; background: var(--border-color-primary);
  accent-color: var(--primary-500); }
.mv-status progress::-webkit-progress-bar { background: var(--border-color-primary); }
.mv-status progress::-webkit-progress-value { background: var(--primary-500);
  transition: width 0.2s; }
.mv-refusal { border-left: 3px solid #dc2626; background: color-mix(in srgb, #dc2626 9%, transparent);
  color: var(--body-text-color); border-radius: 4px; padding: 0.7rem 0.9rem;
  overflow-wrap: anywhere; }
.mv-empty { border: 1px dashed var(--border-color-primary); border-radius: 10px; display: grid;
  place-items: center; min-height: 300px; padding: 2rem; text-align: center;
  color: var(--body-text-color-subdued); }
.mv-clips { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); }
.mv-clips-1 { grid-template-columns: minmax(0, 460px); justify-content: center; }
.mv-clip { margin: 0; border: 1px solid var(--border-color-primary); border-radius: 10px;
  overflow: hidden; background: var(--block-background-fill); }
.mv-clip video { display: block; width: 100%; background: #000; }
.mv-clip figcaption { padding: 0.7rem 0.9rem 0.8rem; }
.mv-heading { font-weight: 650; padding: 0.5rem 0.9rem; }
.mv-prompt { font-weight: 550; overflow-wrap: anywhere; }
.mv-facts { color: var(--body-text-color-subdued); font-size: 0.83rem; margin: 0.2rem 0 0.5rem;
  overflow-wrap: anywhere; }
.mv-links { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0.3rem 1rem;
  font-size: 0.9rem; color: var(--body-text-color-subdued); }
.mv-links a { color: var(--link-text-color); text-decoration: none; margin-left: 0.6rem; padding: 0; }
.mv-links a:hover { text-decoration: underline; }
.mv-links .mv-again { white-space: nowrap; margin-left: 0; }
"""
