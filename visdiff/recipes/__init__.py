"""Applications of the comparison, each one function: it forms the sets, compares, and checks.

Every recipe takes data that the user points to, forms its sets as the VisDiff paper did (Dunlap et
al., CVPR 2024, section 6), compares them overall and, when asked, per class or slice with one false
discovery rate over all (`visdiff.comparison.many`), and lets the confirmed sentences classify
images that neither proposed nor tested them (`visdiff.recipes.heldout`).

- `visdiff.recipes.imagenet_v2`: two data sets of the same classes;
- `visdiff.recipes.clip_vs_resnet`: what one classifier gets right and another wrong;
- `visdiff.recipes.classifier_failures`: what a classifier gets wrong, against what it gets right;
- `visdiff.recipes.generators`: two text-to-image models, image by image of the same prompt;
- `visdiff.recipes.memorability`: the two ends of a score.
"""
