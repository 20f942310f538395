"""Applications of the comparison, one function each: form the sets, compare them, check the result.

Each recipe takes the user's data and forms its sets as in the VisDiff paper (Dunlap et al., CVPR
2024, section 6). It compares the sets overall and optionally per class or slice, with one false
discovery rate for all comparisons (`visdiff.comparison.many`). The confirmed sentences then
classify held-out images that were used neither to propose nor to test them
(`visdiff.recipes.heldout`).

- `visdiff.recipes.imagenet_v2`: two data sets with the same classes;
- `visdiff.recipes.clip_vs_resnet`: images that one classifier gets right and another gets wrong;
- `visdiff.recipes.classifier_failures`: images that a classifier gets wrong against those it gets
  right;
- `visdiff.recipes.generators`: two text-to-image models on the same prompts, in pairs;
- `visdiff.recipes.memorability`: images with high against images with low scores.
"""
