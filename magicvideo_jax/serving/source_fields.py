"""Fields of the page for what a clip starts from: an upload, and its use."""

from pathlib import Path

import gradio as gr

from magicvideo_jax.experiment.requests.clip_request import NO_SOURCE, SourceRequest
from magicvideo_jax.media.frame_reader import ENDINGS
from magicvideo_jax.serving.request_form import RequestForm
from magicvideo_jax.serving.uploads import checked_upload

FIRST, GOES_ON = "first frame", "video to edit, or to go on with"


class SourceFields:
    """An upload, whether it is a picture or a video, and how a video is used."""

    def __init__(self, form: RequestForm, uploads: Path):
        """The components are made where the layout is; `uploads` is the folder of uploaded files."""
        self._uploads = uploads
        with gr.Accordion("Start from a picture or a video", open=False):
            self._file = gr.File(
                label="Picture or video",
                file_types=[*ENDINGS],
                type="filepath",
                height=120,
                elem_id="source",
            )
            self._use = gr.Radio([FIRST, GOES_ON], value=FIRST, show_label=False)
            gr.Markdown(
                "With a strength (0 to 1) a video is edited; without, the clip begins with its last frames."
            )
            with gr.Row():
                form.place("strength", "known_frames")

    @property
    def inputs(self) -> list[gr.Component]:
        return [self._file, self._use]

    def read(self, path: str | None, use: str) -> SourceRequest:
        """What the fields ask for. Errors: `UserError` for a file that is no upload."""
        if not path:
            return NO_SOURCE
        file = str(checked_upload(path, within=self._uploads))
        return SourceRequest(image=file) if use == FIRST else SourceRequest(video=file)
