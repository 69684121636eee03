"""A zoom rule of your own: keep the high crops in which most is going on.

    python ../train.py --config-dir conf zoom=spread

`conf/zoom/spread.yaml` names this class. A rule scores the high crops of every image; how many are kept under each
medium crop (`zoom.top_k`), and which medium crop that is (`zoom.regions`), stays the zoom's, so every image has as many
tokens.
"""

from dragonfly_lit.models.zoom import ZoomRule


class Spread(ZoomRule):
    """How much the patches of a crop differ from one another: next to nothing on a blue sky.

    Args:
        layout: geometry of an image's tokens; `layout.zoom` has the values of `conf/zoom`.
        width: of the language model.
        power: of the differences. This and every other argument is a key of the YAML file.
    """

    def __init__(self, layout, width, power=2.0):
        super().__init__(layout, width)
        self.power = power

    def scores(self, medium, high, regions, project, question=None):
        """Score of every high crop, (images, high); the larger, the sooner it is kept.

        `medium` and `high` are features (images, crops, patches, vision width). `project(features)` maps them to the
        language model's width; `regions` is the medium crop of each high crop; `question` comes with
        `zoom.score=question`.
        """
        features = high.float()
        return (features - features.mean(dim=2, keepdim=True)).abs().pow(self.power).mean(dim=(2, 3))
