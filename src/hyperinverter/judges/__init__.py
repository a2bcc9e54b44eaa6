"""Judges: frozen networks that say how far apart two images are, or read something off a face.

``base`` says what they promise, ``perceptual`` and ``identity`` hold them, ``faces`` and ``efficientnet`` the networks
they use; ``catalogue`` builds one from its label. Weight files are listed in ``checkpoints.registry``.

============================  ================  =========  ==================================
class                         label             says       weights
============================  ================  =========  ==================================
``EffNetPerceptual``          effnet_lite0      distance   ship with the package
``STLPIPS``                   st_lpips_alex     distance   ship with the package
``LPIPS``                     lpips_alex/_vgg   distance   file
``DescriptorIdentity``        id_descriptor     cosine     ship with the package
``FaceNetIdentity``           id_facenet        cosine     file
``DetectedFaceNetIdentity``   id_facenet_mtcnn  cosine     file
``ArcFaceIdentity``           id_arcface        cosine     file
``MoCoSimilarity``            id_moco           cosine     file
============================  ================  =========  ==================================

``sets`` and ``inception`` hold the networks in whose features two sets of images are compared.

Labels go into tables as they are: distances of different networks are not comparable, and none of the
identity labels is the CurricularFace similarity of published tables.
"""
