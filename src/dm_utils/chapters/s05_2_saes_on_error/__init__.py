"""Section 5.2: SAEs trained on the two parts of an SAE's error, and whether their latents can be explained.

The experiment is `experiment.ErrorSaeStudy`. In the order of the notebook:

plan, streams, training   what is trained, on which vectors, and how
choice                    whose error: the SAE with the most equal parts
runs, shipped             the runs of one study; those that the book ships, and the command that trains or re-stamps them
experiment, tables        what is measured of the trained SAEs
endpoint, lm_interp       explanations by a language model behind a chat endpoint
charts, findings          what the page draws and says

Windows of text, rules about tokens and the test of explanations are `engine`'s: `text_windows`, `token_rules`, `autointerp`.
"""
