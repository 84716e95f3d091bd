"""What can be taken out of a session, each in a format that other programs open.

`timeline` for Perfetto (made by `hv/trace/chrome.py`), `cast.py` for asciinema, `picture.py` as SVG or HTML,
`machine_map.py` as Mermaid. Nothing of the host is in any of them, no clock, no path, no random id: the same session
gives the same bytes. `files.py` writes them. Imported by `commands/exporting.py`.
"""
