"""What a bundle is worth, measured through the graphs that the server runs: `ancestral-exporter evaluate`.

bundle       the graphs, asked by role
likelihood   nats/image and bits/dim, exact or a bound with k draws
latents      what each latent tells of an image, and how many tell anything
probes       linear probe and nearest neighbours at few labels, against pixels, PCA and an untrained encoder
judge        a small classifier of the images, trained here
samples      what the judge makes of samples, the Fréchet distance, and copies of training images
evaluation   all of it in order; `tables` and `pictures` show it
"""
